"""Which token each anchor is of."""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from vasae_jax.anchor.files import read_anchors, write_anchors
from vasae_jax.anchor.layer_rows import LayerRows, Origin, origin_of
from vasae_jax.anchor.token_means import (
    SUMS_BYTES,
    LayerAnchors,
    Relations,
    estimate,
    measure,
    token_blocks,
)
from vasae_jax.anchor.whitening import FEW, KINDS
from vasae_jax.cache import Cache
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.progress import Progress


class TokensOf(NamedTuple):
    """The tokens of A anchors, in their order."""

    token: jax.Array | np.ndarray
    """int32 [A]"""
    before: jax.Array | np.ndarray
    """bool [A], whether the anchor is of rows just before the token, not at it"""


def tokens_at(vocab_size: int) -> TokensOf:
    """Of one anchor for each token, in their order, such as the embeddings."""
    return TokensOf(np.arange(vocab_size, dtype=np.int32), np.zeros(vocab_size, bool))


def tokens_of(anchors: LayerAnchors, kind: str, *, detectors: bool) -> TokensOf:
    """Of the rows of :func:`anchor_rows`, or those of :func:`detector_rows`."""
    least, token, before = FEW if detectors else 0, [], []
    for relation in KINDS[kind]:
        own = np.flatnonzero(getattr(anchors, f"{relation}_count") >= least)
        token.append(own.astype(np.int32))
        before.append(np.full(len(own), relation == "next"))
    return TokensOf(np.concatenate(token), np.concatenate(before))


# Anchors of a layer: those kept beside the cache, or made on first use.


def layer_anchors(cache: Cache, layer: int, skip_positions: int, max_norm: float) -> LayerAnchors:
    """The anchors kept beside the cache, which are made if there are none.

    Where the cache cannot be written they are made and used all the same, and one line says so.

    Raises:
        UserError: the cache lacks the layer, no row is kept, or what is kept is damaged.
    """
    of = origin_of(cache, layer, skip_positions, max_norm)
    found = read_anchors(cache, of)
    if found is not None:
        return found
    found = make_anchors(cache, of)
    try:
        write_anchors(cache, found)
    except UserError as error:
        print(f"the anchors of layer {layer} are used but not kept: {error}", file=sys.stderr)
    return found


def make_anchors(cache: Cache, of: Origin, limit: int = SUMS_BYTES) -> LayerAnchors:
    """Anchors from the rows themselves; nothing is written.

    The rows are read once for each block of tokens whose sums fill ``limit`` bytes: once up to
    V d = 2^28 (at d = 576 a vocabulary of 466,033). For memory besides the sums see
    :func:`vasae_jax.anchor.layer.measure` and :func:`vasae_jax.anchor.layer.estimate`.

    Raises:
        UserError: the cache lacks the layer, no row is kept, or a chunk is damaged.
    """
    rows = LayerRows(cache, of.layer, of.skip_positions, of.max_norm)
    return estimate(_measured(rows, of.layer, limit), cache.embedding(), of)


def _measured(rows: LayerRows, layer: int, limit: int) -> Iterator[Relations]:
    blocks = token_blocks(rows.vocab_size, rows.width, limit)
    done = 0
    with Progress(rows.count * len(blocks), unit=f"rows of layer {layer}") as progress:

        def seen(read: int) -> None:
            nonlocal done
            done += read
            progress.update(done)

        for block in blocks:
            yield measure(rows, block, seen=seen)
