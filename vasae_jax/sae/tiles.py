"""Rows that are encoded a tile after another, so that no array of all activations is ever held."""

from collections.abc import Callable

import jax

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
