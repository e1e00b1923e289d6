"""The effect of features on their names: by the logit lens, and by ablation in the model.

The logit lens asks whether a feature's decoder row, read straight by the head, raises its name
most; ablation asks whether taking the feature out of the stream lowers its name's logit most.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.anchor.search import cosine_topm
from vasae_jax.evaluation.patching.model import Model, WindowTable, patched_logits, rows_and_logits
from vasae_jax.names.evidence import TOP, TopShares, spread_features, top_shares
from vasae_jax.names.firings import Firings
from vasae_jax.training.run import Run
from vasae_jax.utils.progress import Progress

LENS_FEATURES = 1024
"""Firing features read by the logit lens at most."""
ABLATED_FEATURES = 64
"""Firing features ablated at most, evenly spaced in the order of how often they fire."""
ABLATED_ROWS = 3
"""Rows that each is ablated on at most: those on which it fires most."""
AT_ONCE = 16
"""Windows run at once; of each only one position's logits are worked out."""


def lens_shares(
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
    features = spread_features(fired, LENS_FEATURES)
    tops = np.zeros((0, TOP), np.int64)
    if len(features):
        tops = raised_most(np.asarray(W_dec)[features], final_norm, unembedding)
    return top_shares(features, tops, names, fired > 0, rows=0)


def raised_most(
    rows: np.ndarray, final_norm: Mapping[str, Any], unembedding: np.ndarray
) -> np.ndarray:
    """The TOP tokens whose logits each of ``rows`` [n, d] raises most; int [n, TOP].

    Equal logits go to the lower id. A token that is not raised above the mean over the
    vocabulary does not count, and -1 stands for it.
    """
    rows = head_rows(rows, final_norm)
    raised, ids = largest_products(rows, unembedding, min(TOP, len(unembedding)))
    mean = rows @ unembedding.mean(axis=0)
    return _padded(np.where(raised > mean[:, None], ids, -1))


def _padded(ids: np.ndarray) -> np.ndarray:
    """``ids`` [n, m] as int64 [n, TOP], -1 in the columns that a small vocabulary lacks."""
    return np.pad(ids.astype(np.int64), ((0, 0), (0, TOP - ids.shape[1])), constant_values=-1)


def head_rows(rows: np.ndarray, final_norm: Mapping[str, Any]) -> np.ndarray:
    """``rows`` [n, d] after the linear part of the final norm; float32."""
    rows = rows.astype(np.float32)
    if final_norm["kind"] == "layernorm":
        rows = rows - rows.mean(axis=1, keepdims=True)
    scaled: np.ndarray = rows * np.asarray(final_norm["weight"], np.float32)[None, :]
    return scaled


_search = jax.jit(cosine_topm, static_argnames="m")


def largest_products(
    rows: np.ndarray, unembedding: np.ndarray, m: int
) -> tuple[np.ndarray, np.ndarray]:
    """The ``m`` largest products of ``rows`` [n, d] with the V tokens: values and ids [n, m]."""
    # The search takes unit rows for cosines; of other rows it gives the largest products.
    values, ids = _search(rows, unembedding, m)
    return np.asarray(values), np.asarray(ids)


def ablation_shares(
    run: Run,
    model: Model,
    split: str,
    firings: Firings,
    names: np.ndarray,
    *,
    at_once: int = AT_ONCE,
) -> TopShares:
    """How often a feature's name is among the tokens whose logits fall most without it.

    The feature's part z_i W_dec[i] is taken from the layer's output at one row, the rest of
    the model runs on, and the logits at that row are compared, each less their mean over the
    vocabulary. Log-probabilities would give the same order: they differ by a constant.

    Args:
        run: whose features they are.
        model: the language model of the run's cache.
        split: the split that ``firings`` come from.
        firings: which features fire where, and how much.
        names: int [F], each feature's name.
        at_once: rows run at once.

    Raises:
        UserError: the cache lacks the split, or a column is damaged.
    """
    data = run.config.data
    table = WindowTable.of(run.cache, data.input_site, split, data.mask)
    fired = np.bincount(firings.feature, minlength=len(names))
    ablations = choose_ablations(firings, fired)
    count = len(ablations.feature)
    size = max(1, min(at_once, count))
    tops = [np.zeros((0, TOP), np.int64)]
    with Progress(count, unit="ablations") as progress:
        for first in range(0, count, size):
            part = np.arange(first, min(first + size, count))
            tops.append(_lowered_most(run, model, table, ablations, part, size))
            progress.update(int(part[-1]) + 1)
        progress.finish(count)
    return top_shares(ablations.feature, np.concatenate(tops), names, fired > 0, rows=count)


def choose_ablations(firings: Firings, fired: np.ndarray) -> Firings:
    """The firings to be ablated: of evenly spaced features the largest, earlier rows first."""
    chosen: list[int] = []
    for feature in spread_features(fired, ABLATED_FEATURES):
        fires = np.flatnonzero(firings.feature == feature)
        best = np.argsort(-firings.activation[fires], kind="stable")[:ABLATED_ROWS]
        chosen += fires[best].tolist()
    return Firings(*(array[np.array(chosen, np.int64)] for array in firings))


def _lowered_most(
    run: Run, model: Model, table: WindowTable, ablations: Firings, part: np.ndarray, size: int
) -> np.ndarray:
    """The TOP tokens whose logits fall most, for the ablations numbered ``part``; int [n, TOP]."""
    site, count = run.config.data.input_site, len(part)
    windows, positions = table.locate(ablations.row[part])
    tokens = table.take(windows, size).tokens
    places = np.pad(positions.astype(np.int32), (0, size - count))
    rows = np.asarray(run.params["W_dec"][ablations.feature[part]])
    ablated = (ablations.activation[part][:, None] * rows).astype(np.float32)
    ablated = np.pad(ablated, ((0, size - count), (0, 0)))
    x, clean = rows_and_logits(model, tokens, site, places)
    patched = patched_logits(model, tokens, _without(x, places, ablated), site, places)
    return top_drops(np.asarray(_drop(clean[:, 0], patched[:, 0]))[:count])


def top_drops(drop: np.ndarray) -> np.ndarray:
    """The TOP tokens with the largest ``drop`` [n, V] above 0, ties by lowest id, then -1."""
    order = np.argsort(-drop, axis=1, kind="stable")[:, :TOP]
    return _padded(np.where(np.take_along_axis(drop, order, axis=1) > 0, order, -1))


@jax.jit
def _without(x: jax.Array, places: jax.Array, ablated: jax.Array) -> jax.Array:
    """``x`` [S, T, d] less ``ablated`` [S, d] at position ``places`` [S] of each window."""
    there = jnp.arange(x.shape[1])[None, :] == places[:, None]
    return x - jnp.where(there[..., None], ablated[:, None, :], 0)


@jax.jit
def _drop(clean: jax.Array, patched: jax.Array) -> jax.Array:
    """How much each logit falls, [S, V] twice to [S, V].

    Less the mean over the vocabulary, so that what falls is what becomes less likely.
    """
    drop = (clean - patched).astype(jnp.float32)
    return drop - jnp.mean(drop, axis=1, keepdims=True)
