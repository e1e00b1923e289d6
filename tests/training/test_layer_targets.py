"""Runs that are pulled towards a layer's own anchors, alone, over a mesh, and in a pack."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from cache_fixtures import make_cache
from layer_root import root_of

from vasae_jax.anchor.layer_anchors import layer_anchors
from vasae_jax.anchor.whitening import FEW, anchor_rows, detector_rows, token_start, within_cov_of
from vasae_jax.cli.main import main
from vasae_jax.config import (
    AnchorConfig,
    Config,
    DataConfig,
    MeshConfig,
    OptimConfig,
    RunConfig,
    SAEConfig,
)
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.evaluation.run import evaluate_run, run_names
from vasae_jax.names.by_embedding import nearest_tokens
from vasae_jax.stream.statistics import statistics
from vasae_jax.training import loop
from vasae_jax.training.checkpoint import Checkpoints, load_params
from vasae_jax.training.inputs import init_run
from vasae_jax.training.loop import train_pack
from vasae_jax.training.run import open_trained
from vasae_jax.training.state import pulled_rows, starting_rows, target_rows
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.signals import Stopped

V, STEPS = 40, 16
KINDS = [("at", "decoder"), ("before", "decoder"), ("both", "decoder"), ("both", "encoder")]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache"), rows=600, d=16, vocab=V, layers=(1,))


def config_for(cache, out, kind="both", pulls="decoder", mesh=None, **run):
    return Config(
        data=DataConfig(cache=cache.url, layer=1, batch=32, readers=4, shuffle_chunks=2),
        sae=SAEConfig(d_sae=32, k=3, decoder_init="random"),
        anchor=AnchorConfig(
            kind=kind,
            pulls=pulls,
            weight=3.5,
            start=0.0,
            warmup=0.0,
            search_fraction=1.0,
            target_cosine=1.0,
        ),
        optim=OptimConfig(lr=3e-3),
        mesh=mesh or MeshConfig(data=1),
        run=RunConfig(out=str(out), steps=STEPS, **run),
    )


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory):
    """A finished run of every kind, by (kind, pulls)."""
    home = tmp_path_factory.mktemp("runs")
    return {kind: loop.train(config_for(cache, home / "-".join(kind), *kind)) for kind in KINDS}


def kept(run):
    """Every array of the last checkpoint."""
    step, params = load_params(run)
    with Checkpoints(run) as checkpoints:
        return step, {**params, **checkpoints.raw(step)}


def own_anchors(cache):
    return layer_anchors(cache, 1, 1, 3.0)


@pytest.mark.parametrize(("kind", "pulls"), KINDS)
def test_targets_are_the_layers_rows(cache, tmp_path, kind, pulls):
    config = config_for(cache, tmp_path, kind, pulls)
    start = starting_rows(config, cache)
    found, within_cov, tokens, _ = target_rows(config, cache, start, 32)
    anchors = own_anchors(cache)
    if pulls == "encoder":
        expected, _ = detector_rows(anchors, kind)
    else:
        expected = anchor_rows(anchors, kind)
    np.testing.assert_array_equal(found, expected)
    assert (within_cov is not None) == (pulls == "encoder")
    if pulls == "decoder":
        assert found.shape == ((2 if kind == "both" else 1) * V, 16)
    assert found.dtype == np.float32
    assert start.shape == (V, 16)
    assert len(tokens.token) == len(tokens.before) == len(found)


def test_targets_of_embeddings_are_the_start_and_of_other_methods_none(cache, tmp_path):
    config = config_for(cache, tmp_path, "embedding")
    start = starting_rows(config, cache)
    found = target_rows(config, cache, start, 32)
    assert found.rows is start and found.within_cov is None
    for method in ("plain", "tied"):
        other = replace(config, sae=replace(config.sae, method=method))
        assert target_rows(other, cache, start, 32).rows.shape == (1, 16)


def test_detectors_need_a_token_with_rows_and_a_known_kind(cache):
    anchors = own_anchors(cache)
    seldom = replace(anchors.at, count=np.minimum(anchors.at.count, FEW - 1))
    with pytest.raises(UserError, match=f"{FEW} rows"):
        detector_rows(replace(anchors, at=seldom), "at")
    with pytest.raises(UserError, match="there"):
        detector_rows(anchors, "there")


def started(cache, kind, count):
    anchors = own_anchors(cache)
    return token_start(anchors, kind, count, within_cov_of(anchors.at.within))


def wide_root(anchors):
    """The symmetric root of the covariance about tokens; 16 directions are all kept."""
    within = anchors.at.within.astype(np.float64)
    values, vectors = np.linalg.eigh(within + 0.01 * np.diag(within).mean() * np.eye(16))
    return (vectors * np.sqrt(values)) @ vectors.T


def test_detectors_equal_their_definition(cache):
    """S^-1 a row by row in float64, S the covariance and a hundredth of its mean diagonal."""
    anchors = own_anchors(cache)
    found, within_cov = detector_rows(anchors, "both")
    root = wide_root(anchors)
    np.testing.assert_allclose(root_of(within_cov), root, atol=1e-4 * root.max())
    expected = [
        np.linalg.solve(root @ root, getattr(anchors, name).rows[token].astype(np.float64))
        for name in ("at", "before")
        for token in range(V)
        if getattr(anchors, name).count[token] >= FEW
    ]
    assert 0 < len(expected) < 2 * V
    unit = [row / np.linalg.norm(row) for row in expected]
    np.testing.assert_allclose(found, unit, atol=1e-4)


def test_features_that_start_at_tokens_equal_their_definition(cache):
    """In float64: the mean row's product is its length, which is twice the threshold."""
    means, root = own_anchors(cache).at, wide_root(own_anchors(cache))
    start = started(cache, "both", V)
    order = sorted(range(V), key=lambda token: (-means.count[token], token))
    assert 0 < (means.count < FEW).sum() < V
    for feature, token in enumerate(order):
        row = means.rows[token].astype(np.float64) * (means.count[token] >= FEW)
        length = np.linalg.norm(row)
        assert start.threshold[feature] == pytest.approx(length / 2, rel=1e-6)
        np.testing.assert_allclose(start.W_dec[feature] * length, row, atol=1e-5)
        detector = np.linalg.solve(root @ root, row)
        expected = detector * (length / (detector @ row)) if length else row
        np.testing.assert_allclose(start.W_enc[feature], expected, rtol=1e-3, atol=1e-4)
    assert len(started(cache, "at", 3).threshold) == 3


@pytest.mark.parametrize("pre_bias", [1.0, 0.3])
def test_a_detectors_response_does_not_depend_on_pre_bias(cache, tmp_path, pre_bias):
    config = config_for(cache, tmp_path, "both", "encoder")
    config = replace(
        config,
        sae=replace(config.sae, pre_bias=pre_bias),
        anchor=replace(config.anchor, init_fraction=0.25),
    )
    random = replace(config, anchor=replace(config.anchor, init_fraction=0.0))
    mesh = make_mesh(config.mesh)
    params, others = (
        jax.device_get(init_run(each, cache, mesh, 32)[1].params) for each in (config, random)
    )
    start = started(cache, "both", 8)
    x, mean = np.random.default_rng(0).normal(size=16), others["b_dec"]
    response = params["W_enc"][:8] @ (x - pre_bias * params["b_dec"]) + params["b_enc"][:8]
    at_token = np.zeros(32, bool)
    at_token[:8] = start.threshold > 0
    expected = start.W_enc @ (x - mean) - start.threshold
    np.testing.assert_allclose(response[at_token[:8]], expected[at_token[:8]], atol=1e-4)
    assert 1 < at_token.sum() < 8
    for name in ("W_enc", "W_dec", "b_enc"):
        np.testing.assert_array_equal(params[name][~at_token], others[name][~at_token])
    np.testing.assert_array_equal(params["b_dec"], others["b_dec"])


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_cached_nearest_anchors_are_those_of_a_full_search(cache, trained, kind):
    step, state = kept(trained[kind])
    assert step == STEPS
    targets = target_rows(config_for(cache, "x", *kind), cache, None, 32).rows.astype(np.float64)
    rows = np.asarray(state["W_enc" if kind[1] == "encoder" else "W_dec"], np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    best = (rows @ targets.T).max(axis=1)
    cached = np.einsum("fd,fd->f", rows, np.asarray(state["anchor"]["anchor_rows"], np.float64))
    np.testing.assert_allclose(cached, best, atol=1e-5)
    last = [
        json.loads(line)
        for line in (trained[kind] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert last[-1]["shortfall"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("pulls", [pytest.param("decoder", marks=pytest.mark.slow), "encoder"])
def test_a_mesh_trains_what_one_device_does(cache, trained, tmp_path, pulls):
    """Sums over devices are taken in another order: float32 rounding over sixteen steps."""
    config = config_for(cache, tmp_path / "run", "both", pulls, MeshConfig(data=2, model=4))
    step, found = load_params(loop.train(config))
    _, expected = load_params(trained["both", pulls])
    assert step == STEPS
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_stopped_run_resumes_bit_equal(cache, trained, tmp_path, monkeypatch):
    config = config_for(cache, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(loop.StopOnAll, "after", lambda self, step: 15 if step == 7 else None)
        with pytest.raises(Stopped):
            loop.train(config)
    loop.train(config)
    assert_equal(tmp_path / "run", trained["both", "decoder"])


def test_a_pack_leaves_what_its_runs_leave_alone(cache, trained, tmp_path):
    first = config_for(cache, tmp_path / "a")
    first = replace(first, data=replace(first.data, seed=0))
    second = replace(
        first,
        anchor=replace(first.anchor, weight=0.5),
        run=replace(first.run, out=str(tmp_path / "b")),
    )
    train_pack([first, second])
    assert_equal(tmp_path / "a", trained["both", "decoder"])
    one, other = (load_params(tmp_path / name)[1]["W_dec"] for name in "ab")
    assert not np.allclose(one, other, atol=1e-4)


def assert_equal(run, other):
    (step, left), (other_step, right) = kept(run), kept(other)
    assert step == other_step
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_alignment_is_to_the_runs_own_anchors_first(cache, trained, kind):
    run = open_trained(str(trained[kind]))
    names = run_names(run)
    found = evaluate_run(run, names).to_json()["unmasked"]["alignment"]
    assert [one["anchor"] for one in found] == [
        f"layer anchors ({kind[0]}, {kind[1]})",
        "input embeddings minus their mean",
        "input embeddings",
    ]
    targets = target_rows(run.config, cache, None, 32)
    rows = pulled_rows(run.params, run.config.anchor)
    np.testing.assert_array_equal(
        names.nearest[0].cosines, nearest_tokens(rows, targets.rows, 1).cosines[:, 0]
    )
    assert names.nearest[0].vocab_size == len(targets.rows)


def test_eval_and_export_serve_a_run_of_layer_anchors(trained, tmp_path, capsys):
    run = str(trained["both", "decoder"])
    assert main(["eval", run, f"--out={tmp_path / 'eval.json'}"]) == 0
    found = json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))
    assert found["unmasked"]["alignment"][0]["anchor"] == "layer anchors (both, decoder)"
    assert found["names"]["anchor"] == "input embeddings minus their mean"
    assert found["names"]["layer"][0]["group"] == "all"
    assert main(["export", run, f"--out={tmp_path / 'dictionary.npz'}"]) == 0
    meta = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))
    assert meta["config"]["anchor"]["kind"] == "both"
    assert meta["hold_over"] == meta["fire_rate_over"]  # so short a split is watched whole
    capsys.readouterr()


def test_features_start_below_a_threshold_in_units_of_their_own_spread(cache, tmp_path):
    """b_enc is minus b_enc_init times the norm of the row times the spread of an entry."""
    config = config_for(cache, tmp_path, "both", "encoder")
    sae = replace(config.sae, method="plain", b_enc_init=1.5, encoder_init="uniform")
    config, mesh = replace(config, sae=sae), make_mesh(config.mesh)
    without = replace(config, sae=replace(sae, b_enc_init=0.0))
    params, start = (
        jax.device_get(init_run(each, cache, mesh, 32)[1].params) for each in (config, without)
    )
    stats = statistics(cache, config.data.input_site, "train", config.data.mask)
    spread = np.linalg.norm(start["W_enc"], axis=1) * np.sqrt(stats.variance / 16)
    np.testing.assert_allclose(params["b_enc"], start["b_enc"] - 1.5 * spread, rtol=1e-5)
    np.testing.assert_array_equal(params["W_enc"], start["W_enc"])
