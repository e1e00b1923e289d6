"""Dense execution's winners by counting are those of a sort, ties included, on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vasae_jax.config import MeshConfig
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.sae.dense import find_cutoff, fires

K = 7


def expected(pre):
    """The k largest of each row, ties to the lowest id, by a stable sort."""
    kept = np.zeros_like(pre)
    order = np.argsort(-pre, axis=1, kind="stable")[:, :K]
    np.put_along_axis(kept, order, np.take_along_axis(pre, order, axis=1), axis=1)
    return kept


def rows(kind):
    rng = np.random.default_rng(0)
    if kind == "random":
        return np.maximum(rng.normal(size=(24, 4096)), 0).astype(np.float32)
    if kind == "ties":
        return rng.integers(0, 6, size=(24, 4096)).astype(np.float32)
    if kind == "few":  # fewer than k above 0
        return (rng.random((24, 4096)) > 0.999).astype(np.float32)
    crowded = np.maximum(rng.normal(size=(24, 4096)), 0).astype(np.float32)
    crowded[:, 5::512] += 10  # all winners in one group
    return crowded


@pytest.mark.parametrize("kind", ["random", "ties", "few", "crowded"])
@pytest.mark.parametrize("parts", [1, 4])
def test_winners_are_those_of_a_sort(kind, parts):
    pre = rows(kind)
    mesh = make_mesh(MeshConfig(2, parts))
    spec = P("model", "data")

    def winners(part):
        cutoff = find_cutoff(part, K, "model", "data")
        return jnp.where(fires(part, cutoff, "model"), part, jnp.zeros_like(part))

    run = jax.shard_map(
        winners,
        mesh=mesh,
        in_specs=spec,
        out_specs=spec,
        check_vma=False,
    )
    found = np.asarray(jax.jit(run)(jnp.asarray(pre.T))).T
    np.testing.assert_array_equal(found, expected(pre))
