"""The anchors of a layer: those kept beside the cache, or made on first use; and their tokens."""

import sys
from typing import NamedTuple

import jax
import numpy as np

from vasae_jax.anchor.files import read_anchors, write_anchors
from vasae_jax.anchor.layer_rows import origin_of
from vasae_jax.anchor.token_means import LayerAnchors, make_anchors
from vasae_jax.anchor.whitening import FEW, KINDS, means_of
from vasae_jax.cache import Cache
from vasae_jax.sites import SiteLike
from vasae_jax.utils.errors import UserError


def layer_anchors(
    cache: Cache, site: SiteLike, skip_positions: int, max_norm: float
) -> LayerAnchors:
    """The anchors kept beside the cache, which are made if there are none.

    Where the cache cannot be written they are made and used all the same, and one line says so.

    Raises:
        UserError: the cache lacks the site, no row is kept, or what is kept is damaged.
    """
    of = origin_of(cache, site, skip_positions, max_norm)
    if (kept := read_anchors(cache, of)) is not None:
        return kept
    made = make_anchors(cache, of)
    try:
        write_anchors(cache, made)
    except UserError as error:
        print(f"the anchors of {of.site} are used but not kept: {error}", file=sys.stderr)
    return made


class AnchorTokens(NamedTuple):
    """The tokens of A anchors, in their order."""

    token: jax.Array | np.ndarray
    """int32 [A]"""
    before: jax.Array | np.ndarray
    """bool [A], whether the anchor is of rows before the token, not at it"""


def vocabulary_tokens(vocab_size: int) -> AnchorTokens:
    """The tokens of anchors such as the embeddings: one for each token, in their order."""
    return AnchorTokens(np.arange(vocab_size, dtype=np.int32), np.zeros(vocab_size, bool))


def anchor_tokens(anchors: LayerAnchors, kind: str, *, detectors: bool) -> AnchorTokens:
    """The tokens of the rows that ``anchor_rows`` gives, or ``detector_rows``."""
    least, token, before = FEW if detectors else 0, [], []
    for relation, means in zip(KINDS[kind], means_of(anchors, kind), strict=True):
        ids = np.flatnonzero(means.count >= least)
        token.append(ids.astype(np.int32))
        before.append(np.full(len(ids), relation == "before"))
    return AnchorTokens(np.concatenate(token), np.concatenate(before))
