"""What names are worth: by hand, against brute force, and for features that earn nothing."""

import itertools
import json
from dataclasses import replace

import lm_fixtures as fx
import numpy as np
import patching_fixtures as pf
import pytest
import torch
from cache_fixtures import make_cache
from watch_fixtures import observe_split, plain_firings

from vasae_jax.dictionary.claims import AT, BEFORE, UNTESTED
from vasae_jax.evaluation import name_effects as outputs
from vasae_jax.evaluation.name_effects import (
    ablation_shares,
    lens_shares,
    raised_most,
    top_drops,
)
from vasae_jax.evaluation.names import NamedRows, measure_names, stability
from vasae_jax.evaluation.patching.model import open_model
from vasae_jax.evaluation.run import evaluate_run, open_anchors_of, run_names
from vasae_jax.names.evidence import (
    Share,
    embedding_hold,
    ordered_evidence,
    spread_features,
    top_shares,
)
from vasae_jax.names.firings import FiringObserver, Firings, name_hold, shuffled_hold
from vasae_jax.utils.errors import UserError

D, K = 48, 6
NO_FIRINGS = Firings(*np.zeros((5, 0), np.int64))
NORM = {"kind": "rmsnorm", "eps": 1e-5, "weight": [1.0, 2.0], "bias": None}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return pf.make_home(tmp_path_factory.mktemp("home"), fx.llama_config())


@pytest.fixture(scope="module")
def lm(home):
    return open_model(str(home.directory), "auto", home.cache)


def some_firings():
    """Feature 0 is named 5 or 6, feature 1 is named 7 or 8, 2 never fires, 3 is named 5 or 7."""
    names = np.array([[5, 6], [7, 8], [1, 2], [5, 7]])
    found = Firings(
        feature=np.array([0, 0, 0, 1, 1, 3]),
        activation=np.array([1.0, 2.0, 5.0, 3.0, 1.0, 4.0], np.float32),
        token=np.array([5, 7, 6, 1, 8, 9]),
        next_token=np.array([1, 6, -1, 7, 2, 7]),
        row=np.array([0, 1, 1, 2, 3, 4]),
    )
    return found, names


def dealt_anew(count):
    """Every permutation that leaves no feature its own."""
    for order in itertools.permutations(range(count)):
        if all(place != own for own, place in enumerate(order)):
            yield order


def test_input_relation_by_hand():
    """At: 6/8, 1/4, 0/4; just before: 2/8, 3/4, 4/4, of the three features that fire."""
    found, names = some_firings()
    relation = embedding_hold(found, names)
    assert (relation.features, relation.names) == (3, 2)
    assert relation.at.named == pytest.approx((6 / 8 + 1 / 4) / 3)
    assert relation.before.named == pytest.approx((2 / 8 + 3 / 4 + 1) / 3)


def test_shuffled_input_relation_is_the_mean_over_all_shuffles():
    found, names = some_firings()
    fires = [0, 1, 3]
    holds = []
    for order in dealt_anew(len(fires)):
        dealt = names.copy()
        dealt[fires] = names[fires][list(order)]
        holds.append(name_hold(found, dealt))
    expected = shuffled_hold(found, names)
    np.testing.assert_allclose(expected.at, np.mean([hold.at for hold in holds], axis=0))
    np.testing.assert_allclose(expected.before, np.mean([hold.before for hold in holds], axis=0))


def test_top_shares_by_hand():
    """Feature 0 (two rows) has 1/2 and 1, feature 2 has 0 and 0; feature 1 is not measured."""
    names = np.array([3, 4, 9, 3, 8])
    tops = np.array([[3, 1, 2, 0, 5], [1, 2, 3, 0, 5], [4, 3, 1, 0, 2]])
    fires = np.array([True, True, True, True, False])
    found = top_shares(np.array([0, 0, 2]), tops, names, fires, rows=3)
    assert (found.features, found.rows) == (2, 3)
    assert (found.top1.named, found.top5.named) == (1 / 4, 1 / 2)
    # Shuffled: of the three other names (4, 9, 3) one is 3; for feature 2 (3, 4, 3) one is 4.
    assert found.top1.shuffled == pytest.approx((1 / 3 / 2 + 1 / 3) / 2)
    assert found.top5.shuffled == pytest.approx((1 / 3 + 3 / 3) / 2)


def test_shuffled_top_shares_are_the_mean_over_all_shuffles():
    rng = np.random.default_rng(0)
    names, tops = rng.integers(0, 6, 5), np.stack([rng.permutation(6)[:5] for _ in range(5)])
    everyone = np.arange(5)
    expected = top_shares(everyone, tops, names, np.ones(5, bool), rows=0)
    drawn = [
        top_shares(everyone, tops, names[list(order)], np.ones(5, bool), rows=0)
        for order in dealt_anew(5)
    ]
    assert expected.top1.shuffled == pytest.approx(np.mean([one.top1.named for one in drawn]))
    assert expected.top5.shuffled == pytest.approx(np.mean([one.top5.named for one in drawn]))


def test_features_are_spread_over_those_that_fire():
    fired = np.array([0, 9, 1, 5, 0, 7, 3])
    assert spread_features(fired, 2).tolist() == [5, 6]
    assert spread_features(fired, 10).tolist() == [1, 5, 3, 6, 2]
    assert spread_features(np.zeros(3), 2).tolist() == []


@pytest.mark.parametrize("kind", ["rmsnorm", "layernorm"])
def test_rows_that_point_at_unembeddings_raise_their_tokens_most(kind):
    rng = np.random.default_rng(0)
    unembedding = rng.normal(size=(90, 16)).astype(np.float32)
    unembedding /= np.linalg.norm(unembedding, axis=1, keepdims=True)
    weight = rng.uniform(0.5, 2, 16)
    tokens = rng.permutation(90)[:20]
    rows = unembedding[tokens].astype(np.float64)
    if kind == "layernorm":
        rows -= rows.mean(axis=1, keepdims=True)
        unembedding -= unembedding.mean(axis=1, keepdims=True)
    norm = {"kind": kind, "eps": 1e-5, "weight": weight.tolist(), "bias": None}
    found = raised_most(rows / weight if kind == "rmsnorm" else rows, norm, unembedding)
    logits = (rows * (1 if kind == "rmsnorm" else weight)) @ unembedding.T.astype(np.float64)
    np.testing.assert_array_equal(found, np.argsort(-logits, axis=1)[:, :5])
    if kind == "rmsnorm":
        np.testing.assert_array_equal(found[:, 0], tokens)


def test_direct_relation_by_hand():
    """Weight (1, 2): the row (1, 1) reads as (1, 2), which raises token 1 by 2 and token 0 by 1."""
    unembedding = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
    assert raised_most(np.array([[1.0, 1.0]]), NORM, unembedding).tolist() == [[1, 0, -1, -1, -1]]
    rows, fired = np.array([[1.0, 1.0], [-1.0, 0.1], [5.0, 0.0]]), np.array([2, 1, 0])
    found = lens_shares(rows, np.array([1, 0, 0]), fired, NORM, unembedding)
    assert (found.features, found.rows) == (2, 0)
    assert found.top1 == Share(1 / 2, 0.0)
    # Feature 1 raises 2 and 1; shuffled it has name 1, and feature 0 has name 0.
    assert found.top5 == Share(1 / 2, 1.0)


def test_a_row_that_moves_no_logit_names_nothing():
    unembedding = np.ones((7, 2), np.float32)
    assert (raised_most(np.array([[1.0, 1.0], [0.0, 0.0]]), NORM, unembedding) == -1).all()
    assert (top_drops(np.zeros((2, 7), np.float32)) == -1).all()


def test_output_relation_equals_torch_with_the_feature_removed(home, lm, monkeypatch):
    run = pf.make_run(home, pf.random_params(D, 40), K)
    found = observe_split(run.params, home.cache, run.config).firings()
    monkeypatch.setattr(outputs, "ABLATED_FEATURES", 7)
    fired = np.bincount(found.feature, minlength=40)
    ablations = outputs.choose_ablations(found, fired)
    tops = []
    for feature, activation, row in zip(
        ablations.feature, ablations.activation, ablations.row, strict=True
    ):
        window, place = np.argwhere(pf.real())[row]
        tokens = home.tokens[window : window + 1]
        x = fx.torch_residuals(home.torch_model, tokens)[pf.LAYER]
        x[0, place] -= activation * np.asarray(run.params["W_dec"])[feature]
        block = home.torch_model.model.layers[pf.LAYER]
        hook = block.register_forward_hook(lambda *_, x=x: torch.from_numpy(x))
        without = fx.torch_logits(home.torch_model, tokens)[0, place]
        hook.remove()
        own = fx.torch_logits(home.torch_model, tokens)[0, place]
        drop = (own - own.mean()) - (without - without.mean())
        tops.append(np.argsort(-drop)[:5])
        mine = found.activation[found.feature == feature]
        assert activation >= np.sort(mine)[-min(3, len(mine))]
    names = np.zeros(40, np.int64)
    for feature, top in zip(ablations.feature, tops, strict=True):
        names[feature] = top[0]
    expected = top_shares(ablations.feature, np.array(tops), names, fired > 0, rows=len(tops))
    for at_once in (16, 2):
        assert ablation_shares(run, lm, "heldout", found, names, at_once=at_once) == expected
    assert expected.features == 7 and expected.top1.named > 0.3


def test_features_built_to_say_a_token_lower_it_most(tmp_path):
    """At the last layer removal reaches the logits through the norm and head alone."""
    home = pf.make_home(tmp_path, fx.llama_config(num_hidden_layers=pf.LAYER + 1))
    head, norm = home.cache.unembedding(), home.cache.final_norm()
    head = head / np.linalg.norm(head, axis=1, keepdims=True)
    weight = np.asarray(norm["weight"])
    tokens = np.arange(40, 80)
    rows = head[tokens] / weight
    params = {**pf.random_params(D, 40), "W_enc": head[tokens] * weight, "W_dec": rows * 0.01}
    run = pf.make_run(home, params, K)
    found = observe_split(run.params, home.cache, run.config).firings()
    model = open_model(str(home.directory), "auto", home.cache)
    relation = ablation_shares(run, model, "heldout", found, tokens)
    fired = np.bincount(found.feature, minlength=40)
    direct = lens_shares(run.params["W_dec"], tokens, fired, norm, home.cache.unembedding())
    for one in (relation, direct):
        assert one.top1.named > 0.9 and one.top5.named > 0.95
        assert one.top1.shuffled < 0.01


def test_stability_by_hand():
    first = NamedRows(
        W_dec=np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]),
        names=np.array([4, 5, 6]),
        fires=np.array([True, True, False]),
    )
    second = NamedRows(
        W_dec=np.array([[0.6, 0.8], [1.0, 0.0], [0.0, 9.0], [3.0, 4.0]]),
        names=np.array([5, 4, 5, 4]),
        fires=np.array([True, False, False, True]),
    )
    # Matches are row 0 of the second (cosines 0.6 and 0.8, the twin in row 3 has a higher id).
    found = stability(first, second)
    assert (found.features, found.candidates) == (2, 2)
    assert found.mean_max_cosine == pytest.approx(0.7)
    assert found.same_name == Share(1 / 2, 1 / 2)


def test_the_same_features_in_another_order_are_found_again():
    rng = np.random.default_rng(0)
    W_dec, order = rng.normal(size=(30, 8)), rng.permutation(30)
    first = NamedRows(W_dec=W_dec, names=np.arange(30), fires=np.ones(30, bool))
    second = NamedRows(W_dec=W_dec[order] * 3, names=order, fires=np.ones(30, bool))
    found = stability(first, second)
    assert found.mean_max_cosine == pytest.approx(1)
    assert found.same_name == Share(1.0, pytest.approx(1 / 30))


def test_dead_and_perfectly_aligned_features_earn_nothing(home, lm):
    """Every row of W_dec is an embedding, which a tied head would raise most; none fires."""
    embedding = home.cache.embedding()[:40]
    params = {**pf.random_params(D, 40, bias=-1e6), "W_dec": embedding}
    run = pf.make_run(home, params, K)
    names, observer = run_names(run), FiringObserver(home.cache, "heldout", 10**6)
    evaluation = evaluate_run(run, names, "heldout", observer)
    assert evaluation.unmasked.alignment[-1].dictionary_aligned == 1
    worth = measure_names(run, names, observer, "heldout", model=lm, other=run, against="itself")
    nothing = Share(0.0, 0.0)
    assert (worth.embedding.features, worth.embedding.at, worth.embedding.before) == (
        0,
        nothing,
        nothing,
    )
    for found in (worth.logit_lens, worth.ablation):
        assert (found.features, found.top1, found.top5) == (0, nothing, nothing)
    assert (worth.stability.mean_max_cosine, worth.stability.same_name) == (0, nothing)
    assert embedding_hold(NO_FIRINGS, names.embedding.ids).at == nothing


def test_dead_features_change_no_figure(home, lm):
    """A dead feature on each of 50 tokens beside 40 that live: every measure stays as it was."""
    living = pf.random_params(D, 40)
    dead = {
        "W_enc": np.zeros((50, D)),
        "W_dec": home.cache.embedding()[:50],
        "b_enc": np.full(50, -1e6),
        "b_dec": living["b_dec"],
    }
    both = {name: np.concatenate([living[name], dead[name]]) for name in living if name != "b_dec"}
    found = []
    for params in (living, {**both, "b_dec": living["b_dec"]}):
        run = pf.make_run(home, params, K)
        names, observer = run_names(run), FiringObserver(home.cache, "heldout", 10**6)
        evaluate_run(run, names, "heldout", observer)
        found.append(
            measure_names(run, names, observer, "heldout", model=lm, other=run, against="itself")
        )
    for kind in ("at", "before"):
        one, other = (getattr(worth.embedding, kind) for worth in found)
        assert one.named == pytest.approx(other.named, rel=1e-5)
        assert one.shuffled == pytest.approx(other.shuffled, rel=1e-5)
    for one, other in zip(*(worth.layer for worth in found), strict=True):
        for name, value in vars(one).items():
            expected = value if isinstance(value, str) else pytest.approx(value, rel=1e-5)
            assert name == "hold10_dead_as_0" or getattr(other, name) == expected, name
    one, other = (worth.layer[0].hold10_dead_as_0 for worth in found)
    assert one > 0 and other * 90 == pytest.approx(one * 40, rel=1e-5)
    assert found[0] == replace(found[1], embedding=found[0].embedding, layer=found[0].layer)
    assert found[0].stability.same_name.named == 1


def test_watching_an_evaluation_gives_the_firings(home):
    run = pf.make_run(home, pf.random_params(D, 40), K)
    names, observer = run_names(run), FiringObserver(home.cache, "heldout", 10**6)
    evaluation = evaluate_run(run, names, "heldout", observer)
    assert observer.rows == evaluation.unmasked.rows
    found, expected = observer.firings(), plain_firings(run.params, home.cache, run.config)
    order = np.lexsort([found.feature, found.row])
    pairs = np.stack([found.row[order], found.feature[order]], axis=1)
    np.testing.assert_array_equal(pairs, [one[:2] for one in expected])
    np.testing.assert_allclose(found.activation[order], [one[2] for one in expected], rtol=1e-4)
    assert observer.row_tokens().observed.sum() == observer.rows


def test_of_a_long_split_every_nth_batch_is_watched(home):
    rows = home.cache.rows("heldout")
    observer = FiringObserver(home.cache, "heldout", rows // 3)
    for start in range(0, rows, 5):
        size = min(5, rows - start)
        observer(start, np.ones(size, bool), np.ones((size, 1)), np.zeros((size, 1), np.int32))
    found = observer.firings()
    assert sorted(set(found.row // 5)) == [0, 3, 6, 9]
    tokens = home.cache.column("tokens", "heldout").read(0, rows)
    np.testing.assert_array_equal(found.token, tokens[found.row])


def test_json_holds_what_was_measured_and_the_table_names_it(home, lm):
    run = pf.make_run(home, pf.random_params(D, 40), K)
    names, observer = run_names(run), FiringObserver(home.cache, "heldout", 10**6)
    evaluate_run(run, names, "heldout", observer)
    worth = measure_names(run, names, observer, "heldout")
    value = json.loads(json.dumps(worth.to_json()))
    assert set(value) == {
        "anchor",
        "names_by",
        "rows",
        "layer",
        "detection",
        "documents",
        "embedding",
        "logit_lens",
    }
    assert [group["group"] for group in value["layer"]][:3] == ["all", "at", "before"]
    assert value["layer"][0]["features"] == value["embedding"]["features"]
    worth = measure_names(run, names, observer, "heldout", model=lm, other=run, against="itself")
    assert {"ablation", "ablation_before", "stability", "against"} <= set(worth.to_json())
    for words in (
        "layer names, over",
        "names as detectors of firing",
        "hold@1",
        "fire rate, quarter 4",
        "shuffled",
        "just before one of its 10 names",
        "lowered most",
        "layer names that say before",
        "itself",
    ):
        assert words in worth.table()


def test_names_that_say_before_are_tested_by_their_removal_too(home, lm, monkeypatch):
    """The same as the output relation over those features alone, by their first layer names."""
    monkeypatch.setattr("vasae_jax.names.evidence.MIN_OCCASIONS", 1)  # the text is short
    run = pf.make_run(home, pf.random_params(D, 40), K)
    names, observer = run_names(run, by="weights"), FiringObserver(home.cache, "heldout", 10**6)
    evaluate_run(run, names, "heldout", observer)
    relation = np.where(np.arange(40) < 12, BEFORE, AT).astype(np.int8)
    names = replace(names, layer=names.layer._replace(relation=relation))
    found = observer.firings()
    worth = measure_names(run, names, observer, "heldout", model=lm)
    layer, evidence = ordered_evidence(found, names.layer, observer.row_tokens())
    shown = found.of((np.arange(40) < 12) & (evidence.verdict != UNTESTED))
    expected = ablation_shares(run, lm, "heldout", shown, layer.ids[:, 0])
    assert worth.ablation_before == expected
    assert 0 < expected.features <= 12


def test_another_caches_anchors_may_name(home, tmp_path):
    """As where names that one text gives are measured on another."""
    run = pf.make_run(home, pf.random_params(D, 40), K)
    twin = open_anchors_of(home.cache.url, run)
    own, same = run_names(run).layer, run_names(run, twin).layer
    np.testing.assert_array_equal(own.ids, same.ids)
    other = make_cache(tmp_path / "other", rows=60, d=D, vocab=40, layers=(1,))
    with pytest.raises(UserError, match=r"has a vocabulary of 40; expected \d+ as"):
        open_anchors_of(other.url, run)


def test_runs_that_cannot_be_compared_are_refused(home, monkeypatch):
    from vasae_jax.evaluation import names as measure

    run = pf.make_run(home, pf.random_params(D, 40), K)
    centred = pf.make_run(home, pf.random_params(D, 40), K, center=True)
    deeper = replace(run, config=replace(run.config, data=replace(run.config.data, layer=2)))
    for other, sentence in ((centred, "names by input embeddings minus"), (deeper, "layers.2")):
        monkeypatch.setattr(measure, "open_trained", lambda *_, other=other: other)
        with pytest.raises(UserError, match=sentence):
            measure.open_other_run("other", run)
