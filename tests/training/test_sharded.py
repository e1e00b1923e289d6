"""Every mesh gives what one device gives, ties included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from step_fixtures import make_config, make_rows, run_steps, start

from vasae_jax.anchor.certificate import full_search, sharded_search, sharded_staleness, staleness
from vasae_jax.config import MeshConfig
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.sae.topk import global_topk, top_k
from vasae_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def one_device():
    return run_steps(make_config(search_fraction=0.25, feature_weight="sqrt_rate"))


@pytest.mark.parametrize(
    ("mesh", "execution"),
    [
        pytest.param((1, 8), "sparse", marks=pytest.mark.slow),
        ((4, 2), "sparse"),
        pytest.param((8, 1), "sparse", marks=pytest.mark.slow),
        pytest.param((1, 8), "dense", marks=pytest.mark.slow),
        ((2, 4), "dense"),
    ],
)
def test_training_on_a_mesh_equals_one_device(one_device, mesh, execution):
    config = make_config(MeshConfig(*mesh), search_fraction=0.25, feature_weight="sqrt_rate")
    state, metrics = run_steps(config, execution)
    expected, expected_metrics = one_device
    # Sums over devices are taken in another order: float32 rounding over twelve steps. The
    # uncertified share differs by right: each part spends its own search budget.
    np.testing.assert_allclose(metrics[:, :5], expected_metrics[:, :5], rtol=2e-5, atol=2e-6)
    for name, value in expected.params.items():
        np.testing.assert_allclose(state.params[name], value, rtol=1e-4, atol=5e-6, err_msg=name)
    np.testing.assert_array_equal(state.counters.idle, expected.counters.idle)


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_sharded_top_k_breaks_ties_as_one_device(parts):
    rng = np.random.default_rng(0)
    pre = rng.integers(0, 6, size=(32, 64)).astype(np.float32)  # many equal values, many zeros
    k = 7
    values, ids = top_k(jnp.asarray(pre), k)
    expected = np.zeros_like(pre)
    np.put_along_axis(expected, np.asarray(ids), np.asarray(values), axis=1)
    mesh = make_mesh(MeshConfig(1, parts))

    def part(local):
        active = global_topk(*top_k(local, k), local.shape[1], k, "model")
        rows = jnp.arange(local.shape[0])[:, None]
        return jnp.zeros_like(local).at[rows, active.ids].set(active.values)

    spec = P(None, "model")
    run = jax.shard_map(part, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    np.testing.assert_array_equal(jax.jit(run)(jnp.asarray(pre)), expected)


@pytest.mark.parametrize(("mesh", "features"), [((2, 4), 64), ((8, 1), 64), ((2, 4), 60)])
def test_a_search_split_over_devices_is_that_of_one(mesh, features):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(features, 16)).astype(np.float32)
    anchors = rng.normal(size=(70, 16)).astype(np.float32)
    anchors[33] = anchors[5]  # as near as one another to everything
    anchors /= np.linalg.norm(anchors, axis=1, keepdims=True)
    arguments = jnp.asarray(rows), jnp.asarray(anchors)
    whole = full_search(*arguments)
    devices = make_mesh(MeshConfig(*mesh))
    split = jax.jit(sharded_search(devices, features))(*arguments)
    for name, part, expected in zip(whole._fields, split, whole, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-6, atol=2e-6, err_msg=name)
    np.testing.assert_array_equal(split.anchor_list, whole.anchor_list)
    stale = whole._replace(anchor_rows=whole.anchor_rows[::-1], anchor_near=whole.anchor_near[::-1])
    found = jax.jit(sharded_staleness(devices, features))(*arguments, stale)
    np.testing.assert_allclose(found, staleness(*arguments, stale), rtol=1e-5)


@pytest.mark.parametrize("mesh", [(1, 1), (2, 4), (1, 8), (8, 1)])
def test_every_array_lies_where_the_rules_say(mesh):
    _, _, anchors = make_rows()
    _, state, _ = start(make_config(MeshConfig(*mesh)), anchors)
    found = {
        jax.tree_util.keystr(path): tuple(leaf.sharding.spec)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    split, whole = ("model",), ()
    moments = {
        f".moments.{moment}['{name}']": whole if name == "b_dec" else split
        for moment in ("mu", "nu")
        for name in ("W_dec", "W_enc", "b_dec", "b_enc")
    }
    assert found == {
        ".step": whole,
        ".params['W_dec']": split,
        ".params['W_enc']": split,
        ".params['b_dec']": whole,
        ".params['b_enc']": split,
        ".moments.count": whole,
        **moments,
        ".anchor.anchor_near": split,
        ".anchor.anchor_rows": split,
        ".anchor.anchor_list": split,
        ".anchor.anchor_ref": split,
        ".anchor.anchor_runner": split,
        ".anchor.anchor_outside": split,
        ".anchor.anchor_slip": split,
        ".counters.idle": split,
        ".counters.rate": split,
    }


def test_a_mesh_larger_than_the_machine_is_refused():
    with pytest.raises(UserError, match=r"found 8 device\(s\)"):
        make_mesh(MeshConfig(data=3, model=3))
