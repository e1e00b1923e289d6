"""Names by embedding: the tokens whose anchors are nearest to a feature's decoder row, by cosine.

A name is a geometric label. It does not explain a feature and claims nothing about causes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.anchor.search import ANCHOR_BLOCK, cosine_topm
from vasae_jax.distributed.mesh import DATA, MODEL
from vasae_jax.sae import unit_rows
from vasae_jax.utils.errors import UserError


class Names(NamedTuple):
    """The m nearest tokens of every feature, best first."""

    ids: np.ndarray
    """int32 [F, m]"""
    cosines: np.ndarray
    """float32 [F, m]"""


def nearest_tokens(
    w_dec: np.ndarray | jax.Array,
    anchors: np.ndarray | jax.Array,
    m: int,
    block: int = ANCHOR_BLOCK,
    mesh: Mesh | None = None,
) -> Names:
    """The ``m`` anchors with the largest cosine to each decoder row, over the whole vocabulary.

    Exact up to float32 rounding of the cosines; equal cosines go to the lower id. Rows of norm
    0, on either side, have cosine 0 to everything. Needs memory for normalised copies of both
    inputs and one block of products, never for F x V.

    Args:
        w_dec: [F, d] decoder rows.
        anchors: [V, d] token anchors, one row per token id.
        m: tokens per feature, 1 <= m <= V.
        block: anchors multiplied at once.
        mesh: devices that split the features; without it the first device does all. Each
            holds all anchors, so the names are those of one device.

    Raises:
        UserError: the shapes do not fit, ``m`` is out of range, or a value is not finite.
    """
    _check(w_dec, anchors, m)
    features = w_dec.shape[0]
    if features == 0:
        return Names(np.zeros((0, m), np.int32), np.zeros((0, m), np.float32))
    if mesh is None:
        ids, cosines = nearest_program(w_dec, anchors, m=m, block=block)
    else:
        padded = np.pad(np.asarray(w_dec), ((0, -features % mesh.size), (0, 0)))
        ids, cosines = names_program(mesh, m, block)(padded, np.asarray(anchors))
    return Names(np.asarray(ids)[:features], np.asarray(cosines)[:features])


def names_program(
    mesh: Mesh, m: int, block: int = ANCHOR_BLOCK
) -> Callable[[Any, Any], tuple[jax.Array, jax.Array]]:
    """The jitted search (rows [F, d], anchors [V, d]) -> (ids, cosines), both [F, m].

    F is a multiple of the devices, which split it; no device talks to another.
    """
    split = P((DATA, MODEL))
    local = jax.shard_map(
        partial(_nearest, m=m, block=block),
        mesh=mesh,
        in_specs=(split, P()),
        out_specs=(split, split),
        check_vma=False,
    )
    return jax.jit(local)


def _nearest(
    w_dec: jax.Array, anchors: jax.Array, m: int, block: int = ANCHOR_BLOCK
) -> tuple[jax.Array, jax.Array]:
    cosines, ids = cosine_topm(_directions(w_dec), _directions(anchors), m, block)
    return ids, cosines


nearest_program = jax.jit(_nearest, static_argnames=("m", "block"))
"""The search on one device: (rows [F, d], anchors [V, d], m, block) -> (ids, cosines) [F, m]."""


def _directions(x: jax.Array) -> jax.Array:
    """Unit rows; scaled first, so that no square overflows float32 or vanishes in it."""
    rows = x.astype(np.float32)
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    return unit_rows(rows / jnp.where(largest > 0, largest, jnp.ones_like(largest)))


def _check(w_dec: np.ndarray | jax.Array, anchors: np.ndarray | jax.Array, m: int) -> None:
    if w_dec.ndim != 2 or anchors.ndim != 2 or w_dec.shape[1] != anchors.shape[1]:
        raise UserError(
            f"decoder rows have shape {tuple(w_dec.shape)} and anchors {tuple(anchors.shape)}; "
            "expected [features, d] and [tokens, d] of equal d"
        )
    if not 1 <= m <= anchors.shape[0]:
        raise UserError(
            f"{m} names per feature were asked for; expected 1 to {anchors.shape[0]}, "
            "the size of the vocabulary"
        )
    for name, array in (("decoder row", w_dec), ("anchor", anchors)):
        bad = np.flatnonzero(~np.isfinite(np.asarray(array)).all(axis=1))
        if bad.size:
            raise UserError(f"{name} {bad[0]} is not finite; expected finite numbers")
