"""Layer anchors out of the moments of all training rows."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vasae_jax.anchor.layer.means import Means
from vasae_jax.anchor.layer.moments import Relations
from vasae_jax.anchor.layer.origin import Origin
from vasae_jax.anchor.layer.ridge import lean, ridge_map


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerAnchors:
    """Where a layer puts each token. Rows are those of the training split that are not masked.

    Attributes:
        of: cache, layer, mask and constants.
        here: float32 [V, d], the mean of the rows at each token less the mean of all rows,
            leaning on what its embedding predicts where it is rare. Not unit rows.
        next: float32 [V, d], the same over the rows that each token follows in their window,
            less the mean of all rows that are followed by a token.
        here_count, next_count: int64 [V], rows.
        here_mean, next_mean: float32 [d], the means taken off.
        here_within, next_within: float32 [d, d], covariance of rows about their token's mean.
        here_explained, next_explained: share of the tokens' means, weighted by count, that a
            linear map of their embeddings explains.
    """

    of: Origin
    here: np.ndarray
    next: np.ndarray
    here_count: np.ndarray
    next_count: np.ndarray
    here_mean: np.ndarray
    next_mean: np.ndarray
    here_within: np.ndarray
    next_within: np.ndarray
    here_explained: float
    next_explained: float

    @property
    def rows(self) -> int:
        """Unmasked rows of the training split."""
        return int(self.here_count.sum())

    @property
    def next_rows(self) -> int:
        """Those of them that are followed by a token in their window."""
        return int(self.next_count.sum())

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}


def estimate(blocks: Iterable[Relations], embedding: np.ndarray, of: Origin) -> LayerAnchors:
    """Anchors from the moments of all rows, block by block of the vocabulary.

    One block is held at a time. Memory besides: 8 V d bytes for the result
    and 4 V d for the ``embedding`` [V, d].
    """
    found = {name: Means(*embedding.shape) for name in Relations._fields}
    for block in blocks:
        for name, means in found.items():
            means.add(getattr(block, name))
        del block  # or its sums would lie in memory beside those of the next
    fields: dict[str, np.ndarray | float] = {}
    for name, means in found.items():
        means.finish()
        linear = ridge_map(means.rows, means.counts, embedding, of.ridge)
        fields[f"{name}_explained"] = lean(means.rows, means.counts, embedding, linear, of.shrink)
        fields |= {name: means.rows, f"{name}_count": means.counts}
        fields[f"{name}_mean"] = means.mean.astype(np.float32)
        fields[f"{name}_within"] = means.within.astype(np.float32)
    return LayerAnchors(of=of, **fields)  # type: ignore[arg-type]
