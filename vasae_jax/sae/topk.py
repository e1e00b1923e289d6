"""Exact top-k of each row, ties to the lowest index, without sorting the row."""

import jax
import jax.numpy as jnp


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
    blocks = -(-width // block)
    padded = jnp.pad(x, ((0, 0), (0, blocks * block - width)), constant_values=-jnp.inf)
    padded = padded.reshape(rows, blocks, block)
    chosen = jnp.sort(jax.lax.top_k(padded.max(axis=2), k)[1], axis=1)
    candidates = jnp.take_along_axis(padded, chosen[:, :, None], axis=1)
    values, at = jax.lax.top_k(candidates.reshape(rows, k * block), k)
    indices = jnp.take_along_axis(chosen, at // block, axis=1) * block + at % block
    return values, indices


def _block_width(width: int, k: int) -> int:
    """A power of two near sqrt(width / k), where both searches are about equally long."""
    return max(16, 1 << ((width // k).bit_length() // 2))
