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
    maxima = jax.lax.reduce_window(
        x, np.asarray(-jnp.inf, x.dtype), jax.lax.max, window, window, "VALID"
    )
    starts = jnp.sort(jax.lax.top_k(maxima, k)[1], axis=1) * block
    candidates = jax.vmap(_slices, (0, 0, None))(x, starts, block).reshape(rows, k * block)
    values, at = jax.lax.top_k(jnp.concatenate([candidates, x[:, blocks * block :]], axis=1), k)
    inside = jnp.take_along_axis(starts, jnp.minimum(at // block, k - 1), axis=1) + at % block
    return values, jnp.where(at < k * block, inside, at + (blocks - k) * block)


def _slices(row: jax.Array, starts: jax.Array, size: int) -> jax.Array:
    """row[start : start + size] for every start: [n, size]."""
    return jax.vmap(lambda start: jax.lax.dynamic_slice(row, (start,), (size,)))(starts)


def _block_width(width: int, k: int) -> int:
    """A power of two near sqrt(width / k), where both searches are about equally long."""
    return max(16, 1 << ((width // k).bit_length() // 2))


# Rows are encoded a tile after another, so that no array of all activations is ever held.


CPU_TILE, TILE = 256, 4096
"""Rows that are multiplied with the encoder at once, on CPUs and elsewhere: enough for a product at
full speed, and on a CPU few enough that their activations are still in its cache when the largest
are looked for."""

Largest = tuple[jax.Array, jax.Array]
"""The k largest activations of each row [B, K], and their features."""


def tile(rows: int) -> int:
    """How many of ``rows`` rows are multiplied with the encoder at once."""
    most = CPU_TILE if jax.default_backend() == "cpu" else TILE
    return most if rows > most and rows % most == 0 else rows


def by_tiles(largest: Callable[[jax.Array], Largest], x_BD: jax.Array) -> Largest:
    """``largest`` of the rows, a tile after another; a pure function, for use in ``jax.jit``."""
    rows = tile(x_BD.shape[0])
    if rows == x_BD.shape[0]:
        return largest(x_BD)
    values, ids = jax.lax.map(largest, x_BD.reshape(-1, rows, x_BD.shape[1]))
    return values.reshape(x_BD.shape[0], -1), ids.reshape(x_BD.shape[0], -1)


class Active(NamedTuple):
    """The features that fire on each row, as this device's part of the features sees them."""

    values: jax.Array
    """[B, K] float32, the activations, 0 where the feature lost or is another device's."""
    ids: jax.Array
    """[B, K] int32, indices into this device's part of the features."""


def preactivations(
    x_BD: jax.Array,
    shift_D: jax.Array,
    W_enc_FD: jax.Array,
    b_enc_F: jax.Array,
    compute_dtype: np.dtype,
) -> jax.Array:
    """(x - shift) W_enc^T + b_enc, [B, F] float32.

    The product takes its inputs as ``compute_dtype`` and accumulates in float32.
    """
    rows, weights = (x_BD - shift_D[None, :]).astype(compute_dtype), W_enc_FD.astype(compute_dtype)
    return product(rows, weights, over=(1, 1)) + b_enc_F[None, :]


def product(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
    """a and b multiplied and summed over one axis of each, in float32."""
    dims = (((over[0],), (over[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)


def global_topk(
    values_BK: jax.Array,
    ids_BK: jax.Array,
    features: int,
    max_k: int,
    axis: str | None,
    k: jax.Array | None = None,
) -> Active:
    """The winners among all devices on ``axis``, each of which has ``features`` features.

    ``values_BK`` and ``ids_BK`` are the ``max_k`` largest of each row here, largest first. Each
    device offers its own; the winners are the largest of all offers. Equal values go to the lowest
    global id, as on one device: offers lie in order of device, and within a device in order of id.
    With a ``k`` only the k largest of a row fire.
    """
    if axis is None:
        return Active(values_BK if k is None else first_columns(values_BK, k, 0.0), ids_BK)
    offers = jax.lax.all_gather(values_BK, axis, axis=1, tiled=True)
    offset = jax.lax.axis_index(axis) * features
    offer_ids = jax.lax.all_gather(ids_BK + offset, axis, axis=1, tiled=True)
    best, at = jax.lax.top_k(offers, max_k)
    best = best if k is None else first_columns(best, k, jnp.inf)
    cut, last = _cut(best, jnp.take_along_axis(offer_ids, at, axis=1))
    tied = values_BK == cut[:, None]
    won = (values_BK > cut[:, None]) | (tied & (ids_BK + offset <= last[:, None]))
    return Active(jnp.where(won, values_BK, jnp.zeros_like(values_BK)), ids_BK)


def first_columns(values: jax.Array, count: jax.Array, other: float) -> jax.Array:
    """``values`` [B, n], those from column ``count`` on replaced by ``other``."""
    inside = jnp.arange(values.shape[1], dtype=jnp.int32) < count
    return jnp.where(inside[None, :], values, jnp.full_like(values, other))


def _cut(values_BK: jax.Array, ids_BK: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The smallest winning value of each row and the largest id that has it."""
    cut = values_BK.min(axis=1)
    tied = jnp.where(values_BK == cut[:, None], ids_BK, jnp.full_like(ids_BK, -1))
    return cut, tied.max(axis=1)
