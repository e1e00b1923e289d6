"""What layer anchors are of: a cache, a layer of it, which rows count, and two constants."""

import math
from dataclasses import dataclass

from vasae_jax.cache import Cache
from vasae_jax.cache.manifest import ANCHORS

SHRINK = 10.0
"""Rows that a prediction from the embedding counts for."""

RIDGE = 1e-3
"""Strength of the ridge, in units of the mean diagonal of the weighted Gram matrix."""


@dataclass(frozen=True)
class Origin:
    """All that decides the anchors.

    Attributes:
        cache: digest of the activation cache; its split ``train`` is meant.
        layer: whose rows.
        skip_positions, max_norm: which rows are masked; see :class:`vasae_jax.stream.Stream`.
        shrink: c in (n mean + c predicted) / (n + c).
        ridge: strength of the ridge regression.
    """

    cache: str
    layer: int
    skip_positions: int
    max_norm: float
    shrink: float = SHRINK
    ridge: float = RIDGE

    @property
    def folder(self) -> str:
        """Where in the cache they are kept."""
        mask = f"skip{self.skip_positions}-norm{self.max_norm!r}"
        return f"{ANCHORS}/layer_{self.layer:02d}-{mask}"


def origin_of(cache: Cache, layer: int, skip_positions: int, max_norm: float) -> Origin:
    """The origin of the anchors of ``layer`` of ``cache``; an endless ``max_norm`` is none."""
    limit = 0.0 if math.isinf(max_norm) else float(max_norm)
    return Origin(cache.digest, int(layer), int(skip_positions), limit)
