"""Which token each anchor is of."""

from typing import NamedTuple

import jax
import numpy as np

from vasae_jax.anchor.layer.detectors import FEW
from vasae_jax.anchor.layer.estimate import LayerAnchors
from vasae_jax.anchor.layer.unit import KINDS


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
