"""TopK (arXiv:2406.04093): the k largest preactivations of a row fire."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vasae_jax.activations.base import Activation

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class TopK(Activation):
    """z keeps the k largest of relu(pre) on each row; equal ones go to the lowest feature.

    ``select`` is its plain definition. Training and evaluation take faster ways to the same
    result: :mod:`vasae_jax.sae.sparse` and :mod:`vasae_jax.sae.dense`.
    """

    kind = "topk"

    k: int
    """Features that may fire on a row."""

    def select(
        self, pre_BF: "jax.Array", params: Mapping[str, "jax.Array"], axis: str | None
    ) -> "jax.Array":
        """See :meth:`Activation.select`."""
        import jax
        import jax.numpy as jnp

        z_BF = jax.nn.relu(pre_BF)
        rows, d_sae = z_BF.shape
        all_BF = z_BF if axis is None else jax.lax.all_gather(z_BF, axis, axis=1, tiled=True)
        _, ids_BK = jax.lax.top_k(jax.lax.stop_gradient(all_BF), self.k)
        kept = jnp.zeros(all_BF.shape, bool).at[jnp.arange(rows)[:, None], ids_BK].set(True)
        if axis is not None:
            kept = jax.lax.dynamic_slice_in_dim(kept, jax.lax.axis_index(axis) * d_sae, d_sae, 1)
        return jnp.where(kept, z_BF, jnp.zeros_like(z_BF))

    def select_numpy(self, pre_BF: np.ndarray, params: Mapping[str, np.ndarray]) -> np.ndarray:
        """See :meth:`Activation.select_numpy`."""
        return keep_largest(np.where(pre_BF > 0, pre_BF, pre_BF.dtype.type(0)), self.k)

    def max_active(self, d_sae: int) -> int:
        """See :meth:`Activation.max_active`."""
        return self.k

    def threshold(self, params: Mapping[str, np.ndarray], d_sae: int) -> None:
        """See :meth:`Activation.threshold`."""
        return None


def keep_largest(z_BF: np.ndarray, k: int) -> np.ndarray:
    """``z_BF`` >= 0 with all but the k largest of each row 0; equal ones by lowest index."""
    d_sae = z_BF.shape[1]
    if k >= d_sae:
        return z_BF
    cut = np.partition(z_BF, d_sae - k, axis=1)[:, d_sae - k, None]
    above, tied = z_BF > cut, z_BF == cut
    room = k - above.sum(axis=1, keepdims=True)
    kept: np.ndarray = np.where(above | (tied & (np.cumsum(tied, axis=1) <= room)), z_BF, 0)
    return kept.astype(z_BF.dtype)
