"""Layer anchors: where a layer itself puts each token, read off an activation cache.

docs/anchors.md has the formula, the artefact and what it costs.
"""

from vasae_jax.anchor.layer.detectors import detector_rows
from vasae_jax.anchor.layer.estimate import LayerAnchors, estimate
from vasae_jax.anchor.layer.files import problems, read_anchors, remove_anchors, write_anchors
from vasae_jax.anchor.layer.make import layer_anchors, make_anchors
from vasae_jax.anchor.layer.moments import Moments, Relations, measure, merge, token_blocks
from vasae_jax.anchor.layer.origin import Origin, origin_of
from vasae_jax.anchor.layer.pull import Nearest, scattered_pull
from vasae_jax.anchor.layer.rows import LayerRows
from vasae_jax.anchor.layer.scatter import Placed, Scatter, placed
from vasae_jax.anchor.layer.tokens import TokensOf, tokens_at, tokens_of
from vasae_jax.anchor.layer.unit import KINDS, anchor_rows

__all__ = [
    "KINDS",
    "LayerAnchors",
    "LayerRows",
    "Moments",
    "Nearest",
    "Origin",
    "Placed",
    "Relations",
    "Scatter",
    "TokensOf",
    "anchor_rows",
    "detector_rows",
    "estimate",
    "layer_anchors",
    "make_anchors",
    "measure",
    "merge",
    "origin_of",
    "placed",
    "problems",
    "read_anchors",
    "remove_anchors",
    "scattered_pull",
    "token_blocks",
    "tokens_at",
    "tokens_of",
    "write_anchors",
]
