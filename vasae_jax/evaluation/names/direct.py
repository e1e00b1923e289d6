"""The direct output relation: does a feature's row, read by the head, raise its name most?"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.anchor.topm import cosine_topm
from vasae_jax.evaluation.names.relation import TOP, TopShares, spread_features, top_shares

FEATURES = 1024
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
    chosen = spread_features(fired, FEATURES)
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
