"""Which features fire: the encoder product and its exact top-k, whole or sharded."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Active(NamedTuple):
    """The features that fire on each row, as this device's part of the features sees them."""

    values: jax.Array
    """[B, k] float32, the activations, 0 where the feature lost or is another device's."""
    ids: jax.Array
    """[B, k] int32, indices into this device's part of the features."""


def preactivations(
    x: jax.Array, shift: jax.Array, W_enc: jax.Array, b_enc: jax.Array, compute: np.dtype
) -> jax.Array:
    """relu((x - shift) W_enc^T + b_enc), [B, F] float32.

    The product takes its inputs as ``compute`` and accumulates in float32.
    """
    dims = (((1,), (1,)), ((), ()))
    rows, weights = (x - shift[None, :]).astype(compute), W_enc.astype(compute)
    product = jax.lax.dot_general(rows, weights, dims, preferred_element_type=jnp.float32)
    return jax.nn.relu(product + b_enc[None, :])


def agree(
    values: jax.Array,
    ids: jax.Array,
    features: int,
    k: int,
    axis: str | None,
    limit: jax.Array | None = None,
) -> Active:
    """The k winners of all devices on ``axis``, of which each has ``features`` features.

    ``values`` and ``ids`` [B, k] are the k largest of each row here, largest first. Each device
    offers its own k; the winners are the k largest of all offers. Equal values go to the lowest
    global id, as on one device: offers lie in order of device, and within a device in order of id.
    Of the winners only the ``limit`` largest fire where it is given.
    """
    if axis is None:
        return Active(values if limit is None else within(values, limit, 0.0), ids)
    offers = jax.lax.all_gather(values, axis, axis=1, tiled=True)
    offset = jax.lax.axis_index(axis) * features
    offer_ids = jax.lax.all_gather(ids + offset, axis, axis=1, tiled=True)
    best, at = jax.lax.top_k(offers, k)
    best = best if limit is None else within(best, limit, jnp.inf)
    cut, last = _cut(best, jnp.take_along_axis(offer_ids, at, axis=1))
    won = (values > cut[:, None]) | ((values == cut[:, None]) & (ids + offset <= last[:, None]))
    return Active(jnp.where(won, values, jnp.zeros_like(values)), ids)


def within(values: jax.Array, limit: jax.Array, other: float) -> jax.Array:
    """``values`` [B, n], those from column ``limit`` on replaced by ``other``."""
    inside = jnp.arange(values.shape[1], dtype=jnp.int32) < limit
    return jnp.where(inside[None, :], values, jnp.full_like(values, other))


def _cut(values: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest winning value of each row and the largest id that has it."""
    cut = values.min(axis=1)
    tied = jnp.where(values == cut[:, None], ids, jnp.full_like(ids, -1))
    return cut, tied.max(axis=1)
