"""Features that start anew: which ones, at what, and the same on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from jax.sharding import PartitionSpec as P
from step_fixtures import ONE, F, K, make_config, make_rows, run_steps, start

from vasae_jax.config import MeshConfig
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.training import resample as module
from vasae_jax.training.loss import Batch
from vasae_jax.training.resample import (
    Resampling,
    first_rows,
    moments_before,
    resample,
    resampling_of,
)
from vasae_jax.training.step import make_step

NAMES = "W_enc", "b_enc", "W_dec"
LAST = 100


def make_state(seed=0):
    """Parameters, and idle steps with ties."""
    rng = np.random.default_rng(seed)
    params = {"W_enc": rng.normal(size=(F, 4)), "b_enc": rng.normal(size=F)}
    params |= {"W_dec": rng.normal(size=(F, 4)), "b_dec": rng.normal(size=4)}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    return params, jnp.asarray(rng.integers(0, 6, size=F), jnp.int32)


def apply(params, idle, residuals, step, rule, mesh=ONE):
    features, whole = P("model"), P()
    split = {name: whole if name == "b_dec" else features for name in params}
    run = jax.shard_map(
        lambda *arrays: resample(*arrays, rule),
        mesh=make_mesh(mesh),
        in_specs=(split, features, whole, whole),
        out_specs=(split, features),
        check_vma=False,
    )
    return jax.device_get(jax.jit(run)(params, idle, jnp.asarray(residuals), jnp.int32(step)))


def twin(params, idle, residuals, step, rule):
    """The same with a loop over the rows, in float64."""
    params = {name: np.array(value, np.float64) for name, value in params.items()}
    order, idle = sorted(range(F), key=lambda i: (-idle[i], i)), np.array(idle)
    for feature, row in zip(order, residuals.astype(np.float64), strict=False):
        if idle[feature] < rule.idle_steps or step >= rule.last_step or not row.any():
            continue
        params["W_enc"][feature] = params["W_dec"][feature] = row / np.linalg.norm(row)
        params["b_enc"][feature] = 0
        idle[feature] = -1
    return params, idle


@pytest.mark.parametrize("mesh", [(1, 1), (1, 4), (2, 4), (1, 8)])
@pytest.mark.parametrize("idle_steps", [1, 5, 9])
@pytest.mark.parametrize("step", [0, LAST - 1, LAST])
def test_the_longest_idle_features_take_the_residuals_in_order(mesh, idle_steps, step):
    state, rows = make_state(), 20
    residuals = np.random.default_rng(1).normal(size=(rows, 4)).astype(np.float32)
    residuals[[0, 7]] = 0  # masked rows
    rule = Resampling(rows, idle_steps, LAST)
    params, idle = apply(*state, residuals, step, rule, MeshConfig(*mesh))
    expected, expected_idle = twin(*state, residuals, step, rule)
    for name, value in expected.items():
        np.testing.assert_allclose(params[name], value, rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(idle, expected_idle)


def test_the_moments_of_features_that_started_anew_are_zeros_at_the_next_step():
    params, idle = make_state()
    idle = idle.at[jnp.array([3, 8])].set(-1)
    ones = jax.tree.map(jnp.ones_like, params)
    moments = moments_before(optax.ScaleByAdamState(jnp.int32(7), ones, ones), idle)
    for moment in (moments.mu, moments.nu):
        for name in NAMES:
            assert set(np.argwhere(np.asarray(moment[name]) == 0)[:, 0].tolist()) == {3, 8}
        np.testing.assert_array_equal(moment["b_dec"], ones["b_dec"])
    assert moments.count == 7


@pytest.mark.parametrize("mesh", [(1, 1), (8, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5, 16])
def test_every_device_has_the_first_rows_of_the_batch(mesh, split, count):
    x = np.random.default_rng(2).normal(size=(16, 3)).astype(np.float32)
    axes = ("data", "model") if split else ("data",)
    run = jax.shard_map(
        lambda local: first_rows(local[:count], count, split=split),
        mesh=make_mesh(MeshConfig(*mesh)),
        in_specs=P(axes),
        out_specs=P(),
        check_vma=False,
    )
    np.testing.assert_array_equal(jax.jit(run)(x), x[:count])


@pytest.mark.parametrize(
    ("mesh", "execution"), [((4, 2), "sparse"), ((8, 1), "sparse"), ((2, 4), "dense")]
)
def test_training_with_resampling_on_a_mesh_equals_one_device(monkeypatch, mesh, execution):
    monkeypatch.setattr(module, "FEATURES_PER_ROW", 8)
    settings = {"k": 1, "resample_after": 1.0, "method": "plain"}
    expected, _ = run_steps(make_config(**settings), execution)
    state, _ = run_steps(make_config(MeshConfig(*mesh), **settings), execution)
    for name, value in expected.params.items():
        # With new moments Adam makes full steps of gradients that are rounding: of lr 3e-3 each.
        np.testing.assert_allclose(state.params[name], value, atol=1e-2, err_msg=name)
        assert np.mean(np.abs(state.params[name] - value) > 5e-4) < 0.01
    np.testing.assert_array_equal(state.counters.idle, expected.counters.idle)
    never, _ = run_steps(make_config(**{**settings, "resample_after": 0.0}))
    assert expected.counters.idle.max() < never.counters.idle.max()


def test_a_feature_that_cannot_fire_starts_anew_at_the_first_kept_residual():
    config = make_config(method="plain", resample_after=1.0)
    x, _, anchors = make_rows()
    mesh, state, context = start(config, anchors)
    b_enc = state.params["b_enc"].at[9].set(-1e6)
    state = state._replace(params={**state.params, "b_enc": b_enc})
    step, keep = make_step(config, mesh, state, "sparse"), jnp.ones(len(x[0]), bool)
    rule = resampling_of(config, F)
    assert rule == Resampling(rows=1, idle_steps=2, last_step=9)
    for number in range(rule.idle_steps):
        before = jax.device_get(state.params)
        state, _ = step(state, Batch(jnp.asarray(x[number]), keep), context)
    row = np.asarray(state.params["W_enc"][9])
    np.testing.assert_array_equal(state.params["W_dec"][9], row)
    assert float(state.params["b_enc"][9]) == 0 and int(state.counters.idle[9]) == -1
    first = x[rule.idle_steps - 1][:1].astype(np.float64)
    x_hat, _, _ = reference.forward(before, first, K, config.sae.pre_bias)
    residual = (first - x_hat)[0]
    np.testing.assert_allclose(row, residual / np.linalg.norm(residual), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "rows"),
    [({"resample_after": 0.0}, 0), ({"method": "tied", "d_sae": 70}, 0), ({}, 1)],
)
def test_nothing_is_resampled_where_it_is_off_or_the_decoder_is_fixed(change, rows):
    config = make_config(**{"resample_after": 1.0, **change})
    assert resampling_of(config, config.sae.d_sae).rows == rows
