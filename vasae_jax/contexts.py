"""Where features fire: the tokens they fire at, and the tokens that come next.

A name says where a direction points among the embeddings. Whether a feature fires where its
name is at hand is another question, and these counts let a reader look.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.sae import Params, encode
from vasae_jax.stream import rows_in_order

BATCH = 2048
SHOWN = 3
"""Tokens listed per feature."""


@dataclass(frozen=True)
class Contexts:
    """Of some features' activation over a split, the share at each token.

    Attributes:
        features: the features asked for.
        at: float64 [n, V], share at rows of each token.
        following: float64 [n, V], share at rows that each token follows in the same window.
    """

    features: tuple[int, ...]
    at: np.ndarray
    following: np.ndarray


def contexts(
    params: Params,
    cache: Cache,
    layer: int,
    features: Sequence[int],
    *,
    k: int,
    pre_bias: float,
    skip_positions: int,
    max_norm: float,
    split: str = "heldout",
) -> Contexts:
    """Sum the activation of ``features`` by token, over the unmasked rows of ``split``.

    Raises:
        UserError: the cache lacks the layer or split, or an array is damaged.
    """
    rows, vocab = cache.rows(split), cache.manifest.vocab_size
    tokens = cache.column("tokens", split).read(0, rows)
    following = next_tokens(tokens, cache.column("positions", split).read(0, rows))
    place = np.full(params["b_enc"].shape[0], -1)
    place[list(features)] = np.arange(len(features))
    at, after = np.zeros((2, len(features), vocab))
    fire = jax.jit(lambda params, x: encode(params, x.astype(np.float32), k, pre_bias))
    batches = rows_in_order(cache, layer, split, BATCH, skip_positions, max_norm)
    for number, batch in enumerate(batches):
        values, ids = jax.device_get(fire(params, batch.x))
        row, slot = np.nonzero((place[ids] >= 0) & (values > 0) & batch.keep[:, None])
        where, weight = place[ids[row, slot]], values[row, slot]
        row += number * BATCH
        np.add.at(at, (where, tokens[row]), weight)
        known = following[row] >= 0
        np.add.at(after, (where[known], following[row[known]]), weight[known])
    return Contexts(tuple(features), _shares(at), _shares(after))


def next_tokens(tokens: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The token after each row in its window, -1 at a window's end; int [rows]."""
    after = np.full(len(tokens), -1)
    goes_on = positions[1:] == positions[:-1] + 1
    after[:-1][goes_on] = tokens[1:][goes_on]
    return after


def largest(shares: np.ndarray) -> list[tuple[int, float]]:
    """The SHOWN tokens with the largest shares of one feature, those above 0 only."""
    order = np.argsort(-shares, kind="stable")[:SHOWN]
    return [(int(token), float(shares[token])) for token in order if shares[token] > 0]


def _shares(sums: np.ndarray) -> np.ndarray:
    total = sums.sum(axis=1, keepdims=True)
    return sums / np.where(total == 0, 1, total)
