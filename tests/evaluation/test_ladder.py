"""The ladder of names: its rungs against what is measured of them alone, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import lm_fixtures as fx
import numpy as np
import patching_fixtures as pf
import pytest

import vasae_jax as vj
from vasae_jax.cli.main import main
from vasae_jax.config import AnchorConfig, Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.dictionary.claims import AT, BEFORE
from vasae_jax.evaluation.ladder import (
    embedding_names,
    observed_names,
    open_baseline,
)
from vasae_jax.names.by_embedding import Names
from vasae_jax.names.counts import FiringCounter
from vasae_jax.training.run import open_trained
from vasae_jax.utils.errors import UserError

F, K, V = 24, 3, 17


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model, a cache of seven documents, and two runs: ``run`` with a pull, and ``plain``."""
    home = pf.make_home(tmp_path_factory.mktemp("home"), fx.llama_config())
    for name in ("run", "plain"):
        train(home, name)
    return home


def train(home, name, **sae):
    method = "plain" if name == "plain" else "soft"
    config = Config(
        data=DataConfig(
            cache=home.cache.url, layer=pf.LAYER, batch=16, readers=1, shuffle_chunks=1, max_norm=0
        ),
        sae=SAEConfig(**{"method": method, "decoder_init": "random", "d_sae": F, "k": K, **sae}),
        anchor=AnchorConfig(kind="embedding", pulls="decoder"),
        mesh=MeshConfig(1, 1),
        run=RunConfig(out=folder(home, name), steps=6, log_every=3),
    )
    vj.train(config)
    return config


def folder(home, name):
    return str(home.directory.parent / name)


@pytest.fixture(scope="module")
def found(home, tmp_path_factory):
    """The JSON of ``vasae eval RUN --ladder --scores``."""
    out = tmp_path_factory.mktemp("out") / "eval.json"
    return evaluated(home, "run", out, f"--ladder={folder(home, 'plain')}", "--scores")


def evaluated(home, name, out, *more):
    assert main(["eval", folder(home, name), f"--lm={home.directory}", f"--out={out}", *more]) == 0
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["run", "plain"])
def test_a_rung_is_what_eval_says_of_its_run(home, found, tmp_path, name):
    said = found if name == "run" else evaluated(home, name, tmp_path / "eval.json")
    metrics, scores = said["unmasked"], said["names"]["layer"][0]
    patched = said["lm"]["patched"]["unmasked_rows"]
    rung = found["ladder"]["rungs"][name]
    assert rung["run"] == name  # and no directory
    expected = {
        **{key: metrics[key] for key in metrics if key.startswith("variance_explained")},
        **{key: scores[key] for key in ("hold10", "hold10_dead_as_0", "mass10")},
        "dead": metrics["dead_fraction"],
        "shuffled10": scores["shuffled10"],
        "kl": patched["sae"]["kl"],
    }
    assert rung.keys() == {"run", "names", "hold1", *expected}
    for key, value in expected.items():
        assert rung[key]["value"] == pytest.approx(value, rel=1e-5, abs=1e-7), key


def test_rungs_of_one_run_differ_in_names_alone(found):
    rungs = found["ladder"]["rungs"]
    assert list(rungs) == ["embedding", "plain", "run", "observer"]
    for name in ("embedding", "observer"):
        for key in ("variance_explained", "variance_explained_within_tokens", "kl", "dead"):
            assert rungs[name][key] == rungs["run"][key]
        assert rungs[name]["hold10"] != rungs["run"]["hold10"]


def test_scores_stand_beside_the_ladder(home, found, capsys):
    scores = found["scores"]
    assert scores["names_by"] == found["names"]["names_by"]
    assert set(scores) >= {"input", "output", "matching"}
    asked = ["eval", folder(home, "run"), "--scores", "--split=train", "--overwrite"]
    assert main(asked) == 2 and "heldout" in capsys.readouterr().err


def test_intervals_hold_their_figures(found):
    for rung in found["ladder"]["rungs"].values():
        for name, figure in rung.items():
            if name not in ("run", "names") and figure["low"] is not None:
                assert figure["low"] <= figure["value"] <= figure["high"], name
    assert found["ladder"]["rungs"]["run"]["hold10"]["low"] is not None


def test_few_documents_are_told(home, found, tmp_path, capsys):
    ladder, out = found["ladder"], tmp_path / "eval.json"
    assert (ladder["documents"], ladder["few_documents"]) == (7, True)
    asked = ["eval", folder(home, "run"), f"--ladder={folder(home, 'plain')}", f"--out={out}"]
    assert main(asked) == 0
    assert "few documents" in capsys.readouterr().out
    assert "kl" not in json.loads(out.read_text(encoding="utf-8"))["ladder"]["rungs"]["run"]


def some_counts(rows=700, features=11, seed=0):
    """Features that like some tokens, *at* or *before* them in turn; the last never fires.

    Returns:
        FiringCounts, and of each firing the feature, activation, token and next token.
    """
    rng = np.random.default_rng(seed)
    at = (rng.integers(0, V, rows) * rng.random(rows)).astype(np.int32)
    ends = np.arange(rows) % 10 == 9
    before = np.where(ends, -1, np.roll(at, -1)).astype(np.int32)
    liking = rng.random((features - 1, V)) ** 6
    liking[0, 2:] = 0  # fires at fewer tokens than there are names
    liked = np.where((np.arange(features - 1) % 2 == 0)[:, None], at, before)
    chosen = rng.random((features - 1, rows)) < np.take_along_axis(liking, liked, axis=1)
    z = (chosen & (liked >= 0)) * rng.gamma(2, size=chosen.shape)
    counter = FiringCounter(features, V)
    counter.add(z.T, np.tile(np.arange(features - 1), (rows, 1)), at, before)
    feature, row = np.nonzero(z)
    return counter.counts(), (feature, z[feature, row], at[row], before[row])


@pytest.mark.parametrize("most", [1, 4, 12])
def test_observed_names_are_those_of_a_plain_loop(most):
    counts, (feature, activation, *tokens) = some_counts()
    names = observed_names(counts, most)
    for f in range(11):
        mine, best = feature == f, []
        for token in tokens:
            sums = [(activation[mine & (token == t)].sum(), -t) for t in range(V)]
            best.append(sorted([pair for pair in sums if pair[0] > 0], reverse=True)[:most])
        at, before = (sum(a for a, _ in pairs) for pairs in best)
        equal = abs(at - before) < 1e-9  # but for rounding: names in both hold everything
        relation = int(names.relation[f]) if equal else int(before > at)
        expected = [-t for _, t in best[relation]] + [-1] * (most - len(best[relation]))
        assert names.relation[f] == relation and names.ids[f].tolist() == expected
        shares = [a / activation[mine].sum() for a, _ in best[relation]]
        np.testing.assert_allclose(names.expected[f][: len(shares)], shares, rtol=1e-6)
    assert (names.ids[-1] == -1).all()
    assert set(names.relation[:-1]) == {AT, BEFORE}


def test_names_by_embedding_take_the_relation_that_holds_more():
    counter = FiringCounter(2, 10)
    values, tokens = np.array([[1.0], [2.0], [4.0]]), (np.array([5, 6, 7]), np.array([6, 8, 3]))
    counter.add(values, np.array([[0], [0], [1]]), *tokens)
    cosines = np.zeros((2, 1), np.float32)
    for ids, relation, word in (([[6], [3]], BEFORE, "before"), ([[6], [2]], AT, "at")):
        names, said = embedding_names(counter.counts(), Names(np.array(ids), cosines))
        assert said == word and names.relation.tolist() == [relation] * 2


def test_a_baseline_of_the_same_data_opens(home):
    run = open_trained(folder(home, "run"))
    baseline = open_baseline(folder(home, "plain"), run, folder(home, "run"))
    assert baseline.config.sae.method == "plain"


def copy_run(source, target, changes):
    """The run in ``source`` with another config.json: ``changes`` of its sections and fields."""
    target.mkdir()
    for path in Path(source).iterdir():
        if path.name != "config.json":
            (target / path.name).symlink_to(path)
    record = json.loads((Path(source) / "config.json").read_text(encoding="utf-8"))
    for section, values in changes.items():
        if isinstance(values, dict):
            record["config"][section] |= values
        else:
            record[section] = values
    (target / "config.json").write_text(json.dumps(record), encoding="utf-8")
    return str(target)


@pytest.mark.fault
@pytest.mark.parametrize(
    "changes",
    [
        {"sae": {"method": "soft"}},
        {"sae": {"decoder_init": "tokens"}},
        {"sae": {"k": K + 1}},
        {"sae": {"activation": "relu"}},
    ],
)
def test_another_baseline_is_refused(home, tmp_path, changes):
    run = open_trained(folder(home, "run"))
    other = copy_run(folder(home, "plain"), tmp_path / "other", changes)
    with pytest.raises(UserError):
        open_baseline(other, run, folder(home, "run"))


@pytest.mark.fault
@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"layer": 2}},
        {"data": {"skip_positions": 2}},
        {"data": {"max_norm": 3.0}},
        {"data": {"batch": 32}},
        {"cache_digest": "0" * 64},
    ],
)
def test_a_baseline_of_other_data_is_refused(home, tmp_path, changes):
    """On a cache that is named, or else a run of another cache is refused for that alone."""
    run = open_trained(folder(home, "run"), home.cache.url)
    other = copy_run(folder(home, "plain"), tmp_path / "other", changes)
    with pytest.raises(UserError, match="has "):
        open_baseline(other, run, folder(home, "run"))


def test_other_features_and_imports_are_refused(home):
    run = open_trained(folder(home, "run"))
    fewer = {**run.params, "W_dec": run.params["W_dec"][:-1]}
    for other in (replace(run, params=fewer), replace(run, imported={"library": "sae_lens"})):
        with pytest.raises(UserError):
            open_baseline(folder(home, "plain"), other, folder(home, "run"))


def test_a_refused_baseline_is_refused_before_anything_is_measured(home, tmp_path, capsys):
    out = tmp_path / "eval.json"
    asked = ["eval", folder(home, "run"), f"--ladder={folder(home, 'run')}", f"--out={out}"]
    assert main(asked) == 2 and not out.exists()
    assert "expected method plain" in capsys.readouterr().err


def test_the_split_that_the_observer_sees_is_refused(home):
    run = open_trained(folder(home, "run"))
    with pytest.raises(UserError):
        open_baseline(folder(home, "plain"), run, folder(home, "run"), "train")
