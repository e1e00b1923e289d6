"""What a run's features do on held-out text, as layouts have it, against the rows themselves."""

import json
from dataclasses import replace

import lm_fixtures as fx
import numpy as np
import patching_fixtures as patching
import pytest
from safetensors.numpy import load

from vasae_jax.evaluation import activity as activities
from vasae_jax.evaluation.activity import check_text, run_files
from vasae_jax.evaluation.sentence import activations
from vasae_jax.interop.folders import WRITTEN
from vasae_jax.utils.errors import UserError

F = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    home = patching.make_home(tmp_path_factory.mktemp("home"), fx.llama_config())
    return patching.make_run(home, patching.random_params(48, features=F), k=4)


@pytest.fixture(scope="module")
def dense(run):
    """Held-out tokens, and activations [rows, F] that are 0 on masked rows."""
    cache = run.cache
    rows = cache.rows("heldout")
    tokens, positions = (cache.column(n, "heldout").read(0, rows) for n in ("tokens", "positions"))
    z = activations(run, cache.acts(patching.LAYER, "heldout").read(0, rows))
    return tokens, z * (positions >= 1)[:, None]


def delphi_arrays(content):
    """Tokens, and activations [S, T, F], out of delphi's files."""
    z = None
    for name, data in content.items():
        if name.endswith(".safetensors"):
            arrays = load(data)
            z = np.zeros((*arrays["tokens"].shape, F), np.float32) if z is None else z
            start = int(name.split("/")[-1].split("_")[0])
            sequence, place, feature = arrays["locations"].astype(int).T
            z[sequence, place, feature + start] = arrays["activations"]
    return arrays["tokens"], z


def test_delphis_latents_are_the_activations_on_the_held_out_text(run, dense):
    dictionary, content = run_files(run, "delphi", "weights")
    tokens, z = delphi_arrays(content)
    length = patching.LENGTH
    count = len(dense[0]) // length
    assert tokens.tolist() == dense[0][: count * length].reshape(count, length).tolist()
    np.testing.assert_allclose(z.reshape(-1, F), dense[1][: count * length], atol=1e-5)
    assert dictionary.d_sae == F
    config = json.loads(content["latents/layers.1/config.json"])
    assert config["model_name"] == run.cache.manifest.model.id


def test_a_bos_before_each_window_is_no_text(run, dense, monkeypatch):
    manifest = replace(run.cache.manifest, bos=True)
    monkeypatch.setattr(type(run.cache), "manifest", property(lambda _: manifest), raising=False)
    _, content = run_files(run, "delphi", "weights")
    tokens, z = delphi_arrays(content)
    positions = run.cache.column("positions", "heldout").read(0, len(dense[0]))
    kept = positions > 0
    assert tokens.reshape(-1).tolist() == dense[0][kept][: tokens.size].tolist()
    np.testing.assert_allclose(z.reshape(-1, F), dense[1][kept][: tokens.size], atol=1e-5)


@pytest.mark.fault
def test_rows_of_batches_that_were_not_observed_are_left_out(run):
    """They would count as text on which nothing fires."""
    from vasae_jax.names.firings import FiringObserver

    rows = run.cache.rows("heldout")
    observer = FiringObserver(run.cache, "heldout", max_rows=rows // 2)
    none = np.zeros((20, 1), np.float32), np.zeros((20, 1), np.int32)
    for start in range(0, rows, 20):
        observer(start, np.arange(20) > 0, *none)
    tokens = run.cache.column("tokens", "heldout").read(0, rows)
    seen = tokens[np.arange(rows) % 60 < 20]
    found = activities.latents(run, observer).tokens.reshape(-1)
    assert found.tolist() == seen[: len(found)].tolist() and len(seen) - len(found) < 10


@pytest.mark.parametrize("layout", sorted(set(WRITTEN) - {"delphi"}))
def test_every_feature_that_fires_is_shown_where_it_fires_most(run, dense, layout):
    _, content = run_files(run, layout, "weights")
    if layout == "neuronpedia":
        features = {f["index"]: f for f in json.loads(content["batch-0.json"])["features"]}
        most = {n: max(max(a["values"]) for a in f["activations"]) for n, f in features.items()}
    else:
        shown = [json.loads(data) for name, data in content.items() if name.startswith("feat")]
        most = {one["index"]: one["act_max"] for one in shown}
    expected = dense[1].max(axis=0)
    assert sorted(most) == np.flatnonzero(expected > 0).tolist()
    for feature, value in most.items():
        assert value == pytest.approx(float(expected[feature]), rel=1e-3)  # kept in float16


@pytest.mark.fault
def test_rows_that_stand_alone_are_no_text(run, monkeypatch):
    monkeypatch.setattr(activities, "_positions", lambda _: np.array([0, 1, -3]))
    with pytest.raises(UserError, match="without the windows"):
        check_text(run)
