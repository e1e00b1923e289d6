"""The direct output relation: does a feature's row, read by the head, raise its name most?"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.anchor.search import cosine_topm
from vasae_jax.evaluation.patching.model import Model, WindowTable, patched_logits, whole
from vasae_jax.names.evidence import TOP, TopShares, spread_features, top_shares
from vasae_jax.names.firings import Firings
from vasae_jax.training.run import Run
from vasae_jax.utils.progress import Progress

DIRECT_FEATURES = 1024
"""Firing features measured at most."""


def direct_relation(
    W_dec: np.ndarray | jax.Array,
    names: np.ndarray,
    fired: np.ndarray,
    final_norm: Mapping[str, Any],
    unembedding: np.ndarray,
) -> TopShares:
    """How often a feature's name is among the tokens whose logits its row raises most.

    The row goes through the linear part of the final norm (its weight, after taking the mean
    away where it is a LayerNorm) and the unembedding; all blocks in between are left out. The
    norm's scale is positive and the same for all tokens, so it does not change their order.

    Args:
        W_dec: [F, d] decoder rows.
        names: int [F], each feature's name.
        fired: [F], rows on which each feature fires.
        final_norm: kind and weight [d], as a cache holds it.
        unembedding: float32 [V, d].
    """
    chosen = spread_features(fired, DIRECT_FEATURES)
    if not len(chosen):
        return top_shares(chosen, np.zeros((0, TOP), np.int64), names, fired > 0, rows=0)
    tops = raised_most(np.asarray(W_dec)[chosen], final_norm, unembedding)
    return top_shares(chosen, tops, names, fired > 0, rows=0)


def raised_most(
    rows: np.ndarray, final_norm: Mapping[str, Any], unembedding: np.ndarray
) -> np.ndarray:
    """The TOP tokens whose logits each of ``rows`` [n, d] raises most; int [n, TOP].

    Equal logits go to the lower id. A token that is not raised above the mean over the
    vocabulary does not count, and -1 stands for it.
    """
    rows = head_rows(rows, final_norm)
    count = min(TOP, len(unembedding))
    raised, ids = largest_products(rows, unembedding, count)
    usual = rows @ unembedding.mean(axis=0)
    found = np.full((len(rows), TOP), -1, np.int64)
    found[:, :count] = np.where(raised > usual[:, None], ids, -1)
    return found


def head_rows(rows: np.ndarray, final_norm: Mapping[str, Any]) -> np.ndarray:
    """``rows`` [n, d] after the linear part of the final norm; float32."""
    rows = rows.astype(np.float32)
    if final_norm["kind"] == "layernorm":
        rows = rows - rows.mean(axis=1, keepdims=True)
    scaled: np.ndarray = rows * np.asarray(final_norm["weight"], np.float32)[None, :]
    return scaled


def largest_products(
    rows: np.ndarray, unembedding: np.ndarray, m: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ``m`` largest products of ``rows`` [n, d] with the V tokens: values and ids [n, m]."""
    values, ids = _largest(jnp.asarray(rows), jnp.asarray(unembedding), m)
    return np.asarray(values), np.asarray(ids)


@partial(jax.jit, static_argnums=2)
def _largest(rows: jax.Array, unembedding: jax.Array, m: int) -> tuple[jax.Array, jax.Array]:
    # The search takes unit rows for cosines; of other rows it finds the largest products.
    return cosine_topm(rows, unembedding, m)


# The output relation: does removing a feature from the stream lower its name's logit most?


FEATURES = 64
"""Firing features measured at most, evenly spaced in the order of how often they fire."""
AT_ONCE = 16
"""Windows run at once; of each only one position's logits are worked out."""
ROWS = 3
"""Rows measured of each at most: those on which it fires most."""


@dataclass(frozen=True)
class Removals:
    """Features to be removed from rows, arrays [n]: each line one feature from one row."""

    feature: np.ndarray
    activation: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.feature)


def output_relation(
    run: Run, model: Model, split: str, found: Firings, names: np.ndarray, *, at_once: int = AT_ONCE
) -> TopShares:
    """How often a feature's name is among the tokens whose logits fall most without it.

    The feature's part z_i W_dec[i] is taken from the layer's output at one row, the rest of
    the model runs on, and the logits at that row are compared, each less their mean over the
    vocabulary. Log-probabilities would give the same order: they differ by a constant.

    Args:
        run: whose features they are.
        model: the language model of the run's cache.
        split: the split that ``found`` comes from.
        found: which features fire where, and how much.
        names: int [F], each feature's name.
        at_once: rows run at once.

    Raises:
        UserError: the cache lacks the split, or a column is damaged.
    """
    data, cache = run.config.data, run.cache
    table = WindowTable.of(cache, data.layer, split, data.mask)
    fired = np.bincount(found.feature, minlength=len(names))
    removals = choose(found, fired)
    size = max(1, min(at_once, len(removals)))
    tops = [np.zeros((0, TOP), np.int64)]
    with Progress(len(removals), unit="removals") as progress:
        for first in range(0, len(removals), size):
            part = np.arange(first, min(first + size, len(removals)))
            tops.append(_lowered(run, model, table, removals, part, size))
            progress.update(int(part[-1]) + 1)
        progress.finish(len(removals))
    return top_shares(removals.feature, np.concatenate(tops), names, fired > 0, rows=len(removals))


def choose(found: Firings, fired: np.ndarray) -> Removals:
    """FEATURES features and for each the ROWS rows on which it fires most, earlier rows first."""
    lines: list[int] = []
    for feature in spread_features(fired, FEATURES):
        mine = np.flatnonzero(found.feature == feature)
        best = np.argsort(-found.activation[mine], kind="stable")[:ROWS]
        lines += mine[best].tolist()
    taken = np.array(lines, np.int64)
    return Removals(found.feature[taken], found.activation[taken], found.row[taken])


def _lowered(
    run: Run, model: Model, table: WindowTable, removals: Removals, part: np.ndarray, size: int
) -> np.ndarray:
    """The TOP tokens whose logits fall most, for the removals numbered ``part``; int [n, TOP]."""
    layer, count = run.config.data.layer, len(part)
    numbers, positions = table.locate(removals.row[part])
    tokens = table.take(numbers, size).tokens
    places = np.zeros(size, np.int32)
    places[:count] = positions
    gone = np.zeros((size, run.params["W_dec"].shape[1]), np.float32)
    rows = np.asarray(run.params["W_dec"][removals.feature[part]])
    gone[:count] = removals.activation[part][:, None] * rows
    x, own = whole(model, tokens, layer, places)
    other = patched_logits(model, tokens, _without(x, places, gone), layer, places)
    return largest(np.asarray(_drop(own[:, 0], other[:, 0]))[:count])


def largest(drop: np.ndarray) -> np.ndarray:
    """The TOP tokens with the largest ``drop`` [n, V] above 0, ties by lowest id, then -1."""
    count = min(TOP, drop.shape[1])
    order = np.argsort(-drop, axis=1, kind="stable")[:, :count]
    found = np.full((len(drop), TOP), -1, np.int64)
    found[:, :count] = np.where(np.take_along_axis(drop, order, axis=1) > 0, order, -1)
    return found


@jax.jit
def _without(x: jax.Array, places: jax.Array, gone: jax.Array) -> jax.Array:
    """``x`` [S, T, d] less ``gone`` [S, d] at position ``places`` [S] of each window."""
    there = jnp.arange(x.shape[1])[None, :] == places[:, None]
    return x - jnp.where(there[..., None], gone[:, None, :], 0)


@jax.jit
def _drop(own: jax.Array, other: jax.Array) -> jax.Array:
    """How much each logit falls, [S, V] twice to [S, V].

    Less the mean over the vocabulary, so that what falls is what becomes less likely.
    """
    drop = (own - other).astype(jnp.float32)
    return drop - jnp.mean(drop, axis=1, keepdims=True)
