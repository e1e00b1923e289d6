"""An activation that the package does not have: the example of docs/dev/extend.md."""

from dataclasses import dataclass

import numpy as np

from vasae_jax.activations import Activation


@dataclass(frozen=True)
class SoftThreshold(Activation):
    """z = max(pre - t, 0): soft thresholding, as in iterative shrinkage."""

    kind = "soft_threshold"

    t: float = 0.5
    """What every preactivation loses."""

    def select(self, pre_BF, params, axis):
        import jax

        return jax.nn.relu(pre_BF - self.t)

    def select_numpy(self, pre_BF, params):
        return np.maximum(pre_BF - self.t, 0)

    def threshold(self, params, d_sae):
        return np.full(d_sae, self.t, np.float32)
