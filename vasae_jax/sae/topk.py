"""Exact top-k of each row, ties to the lowest index, without sorting the row."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


def top_k(x: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Largest ``k`` entries of each row, largest first; equal values by lowest index.

    Long rows are cut into blocks. The k entries lie in the k blocks with the largest
    maxima: were one in another block, each of those k blocks would hold an entry that
    comes before it. So two short searches replace one long one.

    Args:
        x: [B, F], any float type, no NaN.
        k: entries per row, at most F.

    Returns:
        values [B, k] of x's type, indices [B, k] int32.
    """
    rows, width = x.shape
    block = _block_width(width, k)
    if k * block >= width:
        return jax.lax.top_k(x, k)
    blocks = width // block
    # Blocks are read out of x where they lie: padding or reshaping a copy costs more than
    # the search, and on CPU a window's maximum is seven times as fast as an axis's. What is
    # left over at the end of a row is always a candidate.
    window = (1, block)
    maxima = jax.lax.reduce_window(x, _least(x.dtype), jax.lax.max, window, window, "VALID")
    starts = jnp.sort(jax.lax.top_k(maxima, k)[1], axis=1) * block
    candidates = jax.vmap(_slices, (0, 0, None))(x, starts, block).reshape(rows, k * block)
    values, at = jax.lax.top_k(jnp.concatenate([candidates, x[:, blocks * block :]], axis=1), k)
    inside = jnp.take_along_axis(starts, jnp.minimum(at // block, k - 1), axis=1) + at % block
    return values, jnp.where(at < k * block, inside, at + (blocks - k) * block)


def _slices(row: jax.Array, starts: jax.Array, size: int) -> jax.Array:
    """row[start : start + size] for every start: [n, size]."""
    return jax.vmap(lambda start: jax.lax.dynamic_slice(row, (start,), (size,)))(starts)


def _least(dtype: jnp.dtype) -> np.ndarray:
    return np.asarray(-jnp.inf, dtype)


def _block_width(width: int, k: int) -> int:
    """A power of two near sqrt(width / k), where both searches are about equally long."""
    return max(16, 1 << ((width // k).bit_length() // 2))


# Rows that are encoded a tile after another, so that no array of all activations is ever held.


CPU_TILE, TILE = 256, 4096
"""Rows that are multiplied with the encoder at once, on CPUs and elsewhere: enough for a product at
full speed, and on a CPU few enough that their activations are still in its cache when the largest
are looked for."""

Best = tuple[jax.Array, jax.Array]
"""The k largest activations of each row [B, k], and their features."""


def tile(rows: int) -> int:
    """How many of ``rows`` rows are multiplied with the encoder at once."""
    most = CPU_TILE if jax.default_backend() == "cpu" else TILE
    return most if rows > most and rows % most == 0 else rows


def by_tiles(best: Callable[[jax.Array], Best], x: jax.Array) -> Best:
    """``best`` of the rows x [B, d]; a pure function, for use under ``jax.jit``."""
    rows = tile(x.shape[0])
    if rows == x.shape[0]:
        return best(x)
    values, ids = jax.lax.map(best, x.reshape(-1, rows, x.shape[1]))
    return values.reshape(x.shape[0], -1), ids.reshape(x.shape[0], -1)


# Which features fire: the encoder product and its exact top-k, whole or sharded.


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


def global_topk(
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
