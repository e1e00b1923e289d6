"""Every feature has its turn once in TURNS steps, on every mesh and in both layouts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vasae_jax.anchor.certificate import Budget, full_search, update
from vasae_jax.anchor.turns import TURNS, Turn, turn_at
from vasae_jax.config import MeshConfig
from vasae_jax.distributed.mesh import MODEL, make_mesh
from vasae_jax.sae import unit_rows


def marks(step, features, devices, whole):
    """[all features] times that each is named by the turn at ``step``."""
    mesh = make_mesh(MeshConfig(data=1, model=devices))

    def local(step):
        turn = turn_at(step, features, whole=whole)
        return jnp.zeros(features, jnp.int32).at[turn.ids].add(turn.has.astype(jnp.int32))

    run = jax.shard_map(local, mesh=mesh, in_specs=P(), out_specs=P(MODEL), check_vma=False)
    return np.asarray(jax.jit(run)(jnp.int32(step)))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("features", "devices"), [(40, 1), (13, 1), (3, 1), (20, 2), (5, 4)])
def test_every_feature_has_its_turn_once(features, devices, whole):
    found = np.stack([marks(step, features, devices, whole) for step in range(TURNS)])
    ids = np.arange(features * devices)
    np.testing.assert_array_equal(found, ids % TURNS == np.arange(TURNS)[:, None])


def test_only_features_whose_turn_it_is_are_looked_after():
    rng = np.random.default_rng(3)
    anchors = unit_rows(jnp.asarray(rng.normal(size=(200, 24)), jnp.float32))
    rows = jnp.asarray(rng.normal(size=(96, 24)), jnp.float32)
    old = full_search(rows, anchors)
    has = np.arange(96) % TURNS == 5
    turn = Turn(jnp.asarray([*np.flatnonzero(has), 101]), jnp.asarray([True] * 12 + [False]))
    look = jax.jit(partial(update, budget=Budget(24, 24), turn=turn))
    new, uncertified = look(-rows, anchors, old)  # all have turned further than any list covers
    assert uncertified.shape == (13,) and not np.asarray(uncertified).any()
    best = full_search(-rows, anchors)
    np.testing.assert_array_equal(new.anchor_near[has], best.anchor_near[has])
    for before, after in zip(old, new, strict=True):
        np.testing.assert_array_equal(np.asarray(before)[~has], np.asarray(after)[~has])
