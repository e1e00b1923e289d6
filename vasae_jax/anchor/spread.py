"""Full searches over a mesh: every device searches an equal part of the features.

What a device pays, F V d / devices products, falls with devices along either axis of the
mesh: those along ``data`` hold the same features, and share them out for the search. Left to
itself, a compiler has each device search all features, for the loops over them are not split.
"""

from collections.abc import Callable

import jax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.anchor.certificate import AnchorState, Staleness, search, staleness
from vasae_jax.devices.mesh import DATA, MODEL


def spread_search(mesh: Mesh, features: int) -> Callable[[jax.Array, jax.Array], AnchorState]:
    """:func:`search` of W_dec [``features``, d] among anchors [V, d], split over ``mesh``."""
    split = P(_axes(mesh, features))
    return jax.shard_map(search, mesh=mesh, in_specs=(split, P()), out_specs=split, check_vma=False)


def spread_staleness(
    mesh: Mesh, features: int
) -> Callable[[jax.Array, jax.Array, AnchorState], Staleness]:
    """:func:`staleness` of a state of ``features`` features, split over ``mesh``."""
    axes = _axes(mesh, features)

    def part(W_dec: jax.Array, anchors: jax.Array, state: AnchorState) -> Staleness:
        return Staleness(*jax.lax.pmean(staleness(W_dec, anchors, state), axes))

    split = P(axes)
    return jax.shard_map(
        part, mesh=mesh, in_specs=(split, P(), split), out_specs=P(), check_vma=False
    )


def _axes(mesh: Mesh, features: int) -> tuple[str, ...]:
    both = mesh.shape[MODEL] * mesh.shape[DATA]
    return (MODEL, DATA) if features % both == 0 else (MODEL,)
