"""Examples as text: the tokens around each, from the same window."""

from dataclasses import dataclass

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.evaluation.examples.best import Best
from vasae_jax.evaluation.examples.collect import AFTER, BEFORE, TOP

QUANTILES = 8
"""Examples shown of the sample, evenly spaced by activation from the strongest to the weakest."""
SHOWN = TOP + QUANTILES
BLOCK = 4096
"""Features whose text is read at once."""


@dataclass(frozen=True)
class Examples:
    """Examples of F features: the TOP strongest, then QUANTILES by quantile; n = SHOWN of each.

    Where a feature fires less often, ``value`` is 0 and ``tokens`` are -1.
    """

    tokens: np.ndarray
    """int32 [F, n, WIDTH], -1 beyond the window; the firing token is at place BEFORE"""
    shade: np.ndarray
    """float16 [F, n, WIDTH], the feature's activation at each"""
    value: np.ndarray
    """float32 [F, n], its activation at the firing token"""
    quantile: np.ndarray
    """float32 [F, n], the quantile of that value; 1 for the strongest"""


def examples(top: Best, sample: Best, cache: Cache, split: str) -> Examples:
    """The firings that were kept, with the text around them.

    Raises:
        UserError: a column of the cache is damaged.
    """
    places, quantile = _by_quantile(sample)
    rows, value, shade = (
        np.concatenate([top.fields[name], _take(sample.fields[name], places)], axis=1, dtype=kind)
        for name, kind in (("row", np.int64), ("value", np.float32), ("shade", np.float16))
    )
    ones = np.ones((len(rows), TOP), np.float32)
    tokens = _tokens(rows, cache, split)
    shade = np.where(tokens >= 0, shade, np.float16(0))
    return Examples(tokens, shade, value, np.concatenate([ones, quantile], axis=1))


def _by_quantile(sample: Best) -> tuple[np.ndarray, np.ndarray]:
    """Places in the sample and their quantiles [F, QUANTILES], the strongest first.

    A feature with a smaller sample has some of its firings named once each, and then places
    that hold nothing.
    """
    value = sample.fields["value"]
    met = sample.fields["row"] >= 0
    count = met.sum(axis=1, keepdims=True)
    order = np.argsort(np.where(met, -value, np.inf), axis=1, kind="stable")
    step = np.arange(QUANTILES)[None, :]
    few = count <= QUANTILES
    rank = np.where(few, step, ((2 * step + 1) * count) // (2 * QUANTILES))
    rank = np.minimum(rank, value.shape[1] - 1)
    quantile = 1 - (rank + 0.5) / np.maximum(count, 1)
    return np.take_along_axis(order, rank, axis=1), np.clip(quantile, 0, 1).astype(np.float32)


def _take(field: np.ndarray, places: np.ndarray) -> np.ndarray:
    taken: np.ndarray = field[np.arange(len(field))[:, None], places]
    return taken


def _tokens(rows: np.ndarray, cache: Cache, split: str) -> np.ndarray:
    """The tokens around ``rows`` int64 [F, n], -1 where they are of another window; see Examples.

    A row lies in the same window if its position differs by as much as its place does.
    """
    whole = cache.rows(split)
    tokens = cache.column("tokens", split).read(0, whole)
    positions = cache.column("positions", split).read(0, whole)
    offsets = np.arange(-BEFORE, AFTER + 1)
    out = np.full((*rows.shape, len(offsets)), -1, np.int32)
    for at in range(0, len(rows), BLOCK):
        part = rows[at : at + BLOCK, :, None]
        near = part + offsets
        there = (part >= 0) & (near >= 0) & (near < whole)
        near = np.clip(near, 0, whole - 1)
        same = positions[near] - positions[np.clip(part, 0, None)] == offsets
        out[at : at + BLOCK] = np.where(there & same, tokens[near], -1)
    return out
