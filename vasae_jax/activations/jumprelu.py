"""JumpReLU (arXiv:2407.14435) and ReLU: a feature fires above its own threshold, or above 0.

Here they serve SAEs that other libraries trained, and TopK SAEs whose k is replaced by one
threshold. Neither can be trained: JumpReLU needs a gradient for its thresholds, ReLU a penalty.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vasae_jax.activations.base import Activation

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class JumpReLU(Activation):
    """z = pre where pre > max(threshold, 0), else 0."""

    kind = "jumprelu"
    trainable = False
    extra_params = ("threshold",)

    def select(
        self, pre_BF: "jax.Array", params: Mapping[str, "jax.Array"], axis: str | None
    ) -> "jax.Array":
        """See :meth:`Activation.select`."""
        import jax.numpy as jnp

        bar_F = jnp.maximum(params["threshold"], 0)
        return jnp.where(pre_BF > bar_F[None, :], pre_BF, jnp.zeros_like(pre_BF))

    def select_numpy(self, pre_BF: np.ndarray, params: Mapping[str, np.ndarray]) -> np.ndarray:
        """See :meth:`Activation.select_numpy`."""
        bar_F = np.maximum(params["threshold"], 0)
        return np.where(pre_BF > bar_F, pre_BF, pre_BF.dtype.type(0))

    def threshold(self, params: Mapping[str, np.ndarray], d_sae: int) -> np.ndarray:
        """See :meth:`Activation.threshold`."""
        return params["threshold"]


@dataclass(frozen=True)
class ReLU(Activation):
    """z = max(pre, 0)."""

    kind = "relu"
    trainable = False

    def select(
        self, pre_BF: "jax.Array", params: Mapping[str, "jax.Array"], axis: str | None
    ) -> "jax.Array":
        """See :meth:`Activation.select`."""
        import jax

        return jax.nn.relu(pre_BF)

    def select_numpy(self, pre_BF: np.ndarray, params: Mapping[str, np.ndarray]) -> np.ndarray:
        """See :meth:`Activation.select_numpy`."""
        return np.where(pre_BF > 0, pre_BF, pre_BF.dtype.type(0))
