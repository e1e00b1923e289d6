"""What TensorBoard shows of features while a run trains, against NumPy on the run's checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
from cache_fixtures import make_cache
from event_files import histograms, scalars

from vasae_jax.anchor.layer_anchors import layer_anchors
from vasae_jax.anchor.whitening import FEW, anchor_rows, detector_rows
from vasae_jax.config import AnchorConfig, Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.config.presets import embedding
from vasae_jax.stream.order import next_tokens
from vasae_jax.stream.source import rows_in_order
from vasae_jax.training import probe
from vasae_jax.training.checkpoint import load_params
from vasae_jax.training.loop import train, train_pack
from vasae_jax.training.probe import MIN_FIRED
from vasae_jax.training.state import starting_rows

V, K, STEPS, SETS_IN = 40, 3, 12, 6


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache"), rows=900, d=16, vocab=V, layers=(1,))


def config_for(cache, out, anchor=None, **mesh):
    pulled = anchor or AnchorConfig(kind="both", pulls="encoder", weight=3.5)
    return Config(
        data=DataConfig(cache=cache.url, layer=1, batch=32, readers=4, shuffle_chunks=2),
        sae=SAEConfig(d_sae=32, k=K, decoder_init="random"),
        anchor=replace(pulled, search_fraction=1.0, start=SETS_IN / STEPS, warmup=0.0),
        mesh=MeshConfig(**(mesh or {"data": 1})),
        run=RunConfig(
            out=str(out), steps=STEPS, log_every=3, checkpoint_every=50, tensorboard=True
        ),
    )


ANCHORS = {
    "both": AnchorConfig(kind="both", pulls="decoder", weight=3.5),
    "detectors": AnchorConfig(kind="both", pulls="encoder", weight=3.5),
    "embedding": embedding().anchor,
}


def anchors_in_numpy(config, cache):
    """Anchors [A, d], the token of each, and whether it is of rows before the token."""
    own = config.anchor
    if own.kind == "embedding":
        return starting_rows(config, cache), np.arange(V), np.zeros(V, bool)
    found = layer_anchors(cache, 1, config.data.skip_positions, config.data.max_norm)
    sides = ["at", "before"]
    if own.pulls == "decoder":
        return anchor_rows(found, own.kind), np.tile(np.arange(V), 2), np.repeat([False, True], V)
    rows, _ = detector_rows(found, own.kind)
    pairs = [
        (token, side == "before")
        for side in sides
        for token in range(V)
        if getattr(found, side).count[token] >= FEW
    ]
    return rows, *(np.array(part) for part in zip(*pairs, strict=True))


def seen_in_numpy(config, cache):
    """Cosines [F], held-out rows that each feature fires on [F], what its name holds [F]."""
    _, params = load_params(config.run.out)
    W = {name: np.asarray(value, np.float64) for name, value in params.items()}
    pulled = W["W_enc" if config.anchor.pulls == "encoder" else "W_dec"]
    anchors, token_of, before = anchors_in_numpy(config, cache)
    cosines = pulled @ anchors.T / np.linalg.norm(pulled, axis=1, keepdims=True)
    near = cosines.argmax(axis=1)
    count = cache.rows("heldout")
    batch = next(rows_in_order(cache, 1, "heldout", config.data.mask, batch=count))
    token, place = (cache.column(n, "heldout").read(0, count) for n in ("tokens", "positions"))
    following = next_tokens(token, place)
    x = batch.x.astype(np.float64) - config.sae.pre_bias * W["b_dec"]
    pre = np.maximum(x @ W["W_enc"].T + W["b_enc"], 0)
    fired, held, whole = np.zeros((3, len(pulled)))
    for row in np.flatnonzero(batch.keep):
        for feature in np.argsort(-pre[row], kind="stable")[:K]:
            met = following[row] if before[near[feature]] else token[row]
            fired[feature] += pre[row, feature] > 0
            whole[feature] += pre[row, feature]
            held[feature] += pre[row, feature] * (met == token_of[near[feature]])
    return cosines.max(axis=1), fired, held / np.maximum(whole, 1e-30)


def assert_shows(found, values, rounding=1e-4):
    """A histogram is of ``values``, but for rounding."""
    assert found.num == len(values)
    assert found.sum == pytest.approx(values.sum(), rel=rounding, abs=rounding)
    assert found.min == pytest.approx(values.min(), abs=rounding)
    assert found.max == pytest.approx(values.max(), abs=rounding)
    assert sum(found.bucket) == len(values)


@pytest.mark.parametrize("name", ANCHORS)
def test_histograms_are_those_of_the_state_on_held_out_rows(cache, tmp_path, name):
    config = config_for(cache, tmp_path / "run", ANCHORS[name])
    out = train(config)
    found = histograms(out)
    # None before the pull sets in: nothing looks after nearest anchors there.
    assert {step for _, step in found} == {6, 9, 12}
    assert {tag for tag, _ in found} == {"alignment", "hold"}
    assert {"fvu", "l0", "mean_cosine", "dead_fraction"} <= scalars(out)
    cosines, fired, hold = seen_in_numpy(config, cache)
    assert_shows(found["alignment", STEPS], cosines)  # 12 steps: none counts as dead
    counted = fired >= MIN_FIRED
    assert counted.any() and hold[counted].max() > 0
    assert_shows(found["hold", STEPS], hold[counted])


@pytest.mark.parametrize("mesh", [{"data": 4, "model": 2}, {"data": 1, "model": 8}])
def test_a_mesh_shows_what_one_device_does(cache, tmp_path, mesh):
    config = config_for(cache, tmp_path / "run", **mesh)
    found = histograms(train(config))
    cosines, fired, hold = seen_in_numpy(config, cache)
    assert_shows(found["alignment", STEPS], cosines)
    assert_shows(found["hold", STEPS], hold[fired >= MIN_FIRED])


def test_runs_of_a_pack_show_their_own(cache, tmp_path):
    configs = [config_for(cache, tmp_path / name) for name in ("a", "b")]
    configs = [replace(one, data=replace(one.data, seed=0)) for one in configs]
    configs[1] = replace(configs[1], run=replace(configs[1].run, seed=5))
    train_pack(configs)
    for config in configs:
        found = histograms(tmp_path / config.run.out)
        cosines, fired, hold = seen_in_numpy(config, cache)
        assert_shows(found["alignment", STEPS], cosines)
        assert_shows(found["hold", STEPS], hold[fired >= MIN_FIRED])


def test_a_run_without_anchors_has_curves_alone(cache, tmp_path):
    config = config_for(cache, tmp_path / "run")
    out = train(replace(config, sae=replace(config.sae, method="plain")))
    assert not histograms(out) and "fvu" in scalars(out)


def test_pieces_of_a_long_split_are_evenly_spaced(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "ROWS", 64)
    monkeypatch.setattr(probe, "PIECES", 4)
    cache = make_cache(tmp_path, rows=900, d=16, vocab=V, layers=(1,))
    config = config_for(cache, tmp_path / "run")
    rows, count = probe.held_out_rows(config, cache, 3), cache.rows("heldout")
    assert len(rows.x) == 66 and not rows.keep[64:].any()  # filled up to a multiple of 3
    starts = [count * piece // 4 for piece in range(4)]
    tokens, places = (cache.column(n, "heldout").read(0, count) for n in ("tokens", "positions"))
    following = next_tokens(tokens, places)
    own = np.concatenate([np.arange(start, start + 16) for start in starts])
    np.testing.assert_array_equal(rows.token[:64], tokens[own])
    expected = np.where(np.arange(64) % 16 == 15, -1, following[own])
    np.testing.assert_array_equal(rows.next_token[:64], expected)
