"""Embedding anchors, and the exact search for the anchors of largest cosine to each row.

The search streams over blocks of both sides and never holds all products.
"""

import jax
import jax.numpy as jnp
import numpy as np

ROW_BLOCK = 1024
"""Rows multiplied at once: with ANCHOR_BLOCK, a block of 16 MiB that stays in a CPU's cache."""
ANCHOR_BLOCK = 4096
"""Anchors multiplied at once, unless the caller says otherwise."""
_GROUP = 32
_NO_ID = jnp.iinfo(jnp.int32).max

Best = tuple[jax.Array, jax.Array]
"""The m largest cosines of each row, best first, and their ids: float32 and int32 [R, m]."""


def anchor_matrix(embedding: np.ndarray, *, center: bool) -> np.ndarray:
    """Unit anchor rows, float32 [V, d], from the embeddings [V, d].

    Embeddings of one model share a strong common direction, so raw cosines between any two
    tokens are far from zero; ``center`` takes their mean away first. Rows of norm 0 stay 0.
    """
    rows = embedding.astype(np.float64)
    if center:
        rows = rows - rows.mean(axis=0, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms == 0, 1.0, norms)).astype(np.float32)


def anchor_name(*, center: bool) -> str:
    """The embedding anchors in words, for metadata and figures."""
    return "input embeddings minus their mean" if center else "input embeddings"


def cosine_topm(
    rows_RD: jax.Array, anchors_AD: jax.Array, m: int, block: int = ANCHOR_BLOCK
) -> tuple[jax.Array, jax.Array]:
    """The ``m`` anchors with the largest cosine to each row, best first, ties by lowest id.

    A pure function for use under ``jax.jit``, with static ``m`` and ``block``. It never holds
    more than ROW_BLOCK x ``block`` products. Products are full float32 on every platform.

    Args:
        rows_RD: float32 [R, d], of norm 1 (or 0: all cosines 0), R >= 1.
        anchors_AD: float32 [A, d], likewise.
        m: how many anchors to keep, 1 <= m <= A.
        block: anchors multiplied at once.

    Returns:
        cosines float32 [R, m] and anchor ids int32 [R, m].
    """
    n_rows, n_anchors = rows_RD.shape[0], anchors_AD.shape[0]
    row_block, block = min(ROW_BLOCK, n_rows), min(block, n_anchors)

    def rows_step(index: jax.Array, best: Best) -> Best:
        # The last block is moved back to end with the rows; rows done twice get equal results.
        start = jnp.minimum(index * row_block, n_rows - row_block)
        rows = jax.lax.dynamic_slice_in_dim(rows_RD, start, row_block)
        cosines, ids = _best_of_rows(rows, anchors_AD, m, block)
        return (
            jax.lax.dynamic_update_slice_in_dim(best[0], cosines, start, 0),
            jax.lax.dynamic_update_slice_in_dim(best[1], ids, start, 0),
        )

    empty = (jnp.zeros((n_rows, m), jnp.float32), jnp.zeros((n_rows, m), jnp.int32))
    best: Best = jax.lax.fori_loop(0, -(-n_rows // row_block), rows_step, empty)
    return best


def _best_of_rows(rows_RD: jax.Array, anchors_AD: jax.Array, m: int, block: int) -> Best:
    n_anchors = anchors_AD.shape[0]

    def step(index: jax.Array, best: Best) -> Best:
        start = jnp.minimum(index * block, n_anchors - block)
        part = jax.lax.dynamic_slice_in_dim(anchors_AD, start, block)
        product = jax.lax.dot_general(
            rows_RD,
            part,
            (((1,), (1,)), ((), ())),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        # The last block is moved back to end with the anchors: skip what was seen before.
        values, ids = _candidates(product, start, index * block, m)
        return _select(
            jnp.concatenate([best[0], values], axis=1), jnp.concatenate([best[1], ids], axis=1), m
        )

    shape = (rows_RD.shape[0], m)
    none = (jnp.full(shape, -jnp.inf, jnp.float32), jnp.full(shape, _NO_ID, jnp.int32))
    best: Best = jax.lax.fori_loop(0, -(-n_anchors // block), step, none)
    return best


def _candidates(product: jax.Array, start: jax.Array, first: jax.Array, m: int) -> Best:
    """Values and ids of the m groups of neighbouring columns with the largest maxima.

    The m best columns are among them: a column outside has m columns, one in each of these
    groups, that are larger, or as large with a lower id. Columns with ids below ``first``
    do not count.
    """
    rows, columns = product.shape
    groups = -(-columns // _GROUP)
    pad = groups * _GROUP - columns
    if pad:
        product = jnp.pad(product, ((0, 0), (0, pad)), constant_values=-jnp.inf)
    grouped = product.reshape(rows, groups, _GROUP)
    offset = jnp.arange(groups * _GROUP, dtype=jnp.int32).reshape(1, groups, _GROUP)
    maxima = jnp.max(jnp.where(offset >= first - start, grouped, -jnp.inf), axis=2)
    if m < groups:
        numbers = jnp.broadcast_to(jnp.arange(groups, dtype=jnp.int32)[None, :], (rows, groups))
        _, chosen = _select(maxima, numbers, m)
        chosen = jnp.minimum(chosen, groups - 1)
        grouped = jnp.take_along_axis(grouped, chosen[:, :, None], axis=1)
        offset = chosen[:, :, None] * _GROUP + jnp.arange(_GROUP, dtype=jnp.int32)[None, None, :]
    seen = offset >= first - start
    ids = jnp.where(seen & (offset < columns), offset + start, _NO_ID)
    ids = jnp.broadcast_to(ids, grouped.shape)
    values = jnp.where(seen, grouped, -jnp.inf)
    return values.reshape(rows, -1), ids.reshape(rows, -1)


def _select(values: jax.Array, ids: jax.Array, m: int) -> Best:
    """The ``m`` largest of each row, best first, ties by lowest id; [r, n] -> [r, m] twice.

    m passes of plain reductions: XLA turns ``top_k`` inside a larger program into a full sort.
    """
    out = []
    for _ in range(m):
        best = jnp.max(values, axis=1, keepdims=True)
        first = jnp.min(jnp.where(values == best, ids, _NO_ID), axis=1, keepdims=True)
        out.append((best, first))
        taken = ids == first
        values = jnp.where(taken, -jnp.inf, values)
        ids = jnp.where(taken, _NO_ID, ids)
    largest, chosen = zip(*out, strict=True)
    return jnp.concatenate(largest, axis=1), jnp.concatenate(chosen, axis=1)
