"""What features are pulled towards in a run."""

from typing import NamedTuple

import numpy as np

from vasae_jax.anchor import anchor_matrix
from vasae_jax.anchor.layer import (
    LayerAnchors,
    Scatter,
    TokensOf,
    anchor_rows,
    detector_rows,
    layer_anchors,
    tokens_at,
    tokens_of,
)
from vasae_jax.cache import Cache
from vasae_jax.config import AnchorConfig, Config
from vasae_jax.devices.distributed import first_then_all


def starting_rows(config: Config, cache: Cache) -> np.ndarray:
    """Float32 [V, d]: a row for each token, for a decoder that starts at tokens or is tied."""
    if config.sae.method == "tied":
        return cache.embedding()
    return anchor_matrix(cache.embedding(), center=config.anchor.center)


class Targets(NamedTuple):
    """What rows are pulled towards."""

    rows: np.ndarray
    """[A, d] unit float32"""
    scatter: Scatter | None = None
    """by which both sides are compared, see :mod:`vasae_jax.anchor.layer.scatter`"""
    tokens: TokensOf | None = None
    """what each row is of; None where nothing pulls"""


def target_rows(config: Config, cache: Cache, start: np.ndarray) -> Targets:
    """What the run pulls towards.

    ``start`` are :func:`starting_rows`: with embeddings as anchors they serve as both. Layer
    anchors are made on first use, by the first process while the others wait.

    Raises:
        UserError: the layer's anchors cannot be made, what is kept of them is damaged, or no
            token has a detector.
    """
    if config.sae.method != "soft":
        return Targets(np.zeros((1, start.shape[1]), np.float32))
    if config.anchor.kind == "embedding":
        return Targets(start, tokens=tokens_at(len(start)))
    data = config.data
    anchors = first_then_all(
        lambda: layer_anchors(cache, data.layer, data.skip_positions, data.max_norm)
    )
    return pulled_to(anchors, config.anchor)


def pulled_to(anchors: LayerAnchors, config: AnchorConfig) -> Targets:
    """The layer's anchors, as the matrix that is pulled is to be near to them."""
    detectors = config.pulls == "encoder"
    tokens = tokens_of(anchors, config.kind, detectors=detectors)
    if detectors:
        return Targets(*detector_rows(anchors, config.kind), tokens)
    return Targets(anchor_rows(anchors, config.kind), tokens=tokens)
