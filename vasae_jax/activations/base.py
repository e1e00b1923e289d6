"""What an activation function is: which features fire on a row, given their preactivations.

A kind of activation is one frozen dataclass in a file of its own, listed in
:data:`vasae_jax.activations.ACTIVATIONS`. Training, evaluation, NumPy's encode and the layouts of
other libraries all go through it. docs/dev/extend.md adds one step by step.

Shapes: B rows, F features (on a mesh, those of this device).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import jax


@dataclass(frozen=True)
class Activation:
    """Base of all activations.

    A field with the name of a setting of ``SAEConfig``, such as ``k``, takes its value from
    there; every other field needs a default.
    """

    kind: ClassVar[str] = ""
    """Name in the registry, in ``--sae.activation`` and in files."""
    trainable: ClassVar[bool] = True
    """Whether runs can train with it. False where it only serves SAEs that are trained."""
    extra_params: ClassVar[tuple[str, ...]] = ()
    """Names of its own parameters, [F] float32 each, beside W_enc, b_enc, W_dec and b_dec."""

    def select(
        self, pre_BF: "jax.Array", params: Mapping[str, "jax.Array"], axis: str | None
    ) -> "jax.Array":
        """The activations z [B, F] of preactivations, in JAX and differentiable.

        Args:
            pre_BF: preactivations of this device's features.
            params: this device's part of all parameters, with the ``extra_params``.
            axis: the mesh axis that splits the features, None where one device holds all. Only
                an activation that compares features with one another needs it.
        """
        raise NotImplementedError

    def select_numpy(self, pre_BF: np.ndarray, params: Mapping[str, np.ndarray]) -> np.ndarray:
        """The same with NumPy, over all features; z [B, F] has the type of ``pre_BF``."""
        raise NotImplementedError

    def max_active(self, d_sae: int) -> int | None:
        """The most features that can fire on a row; None where there is no bound below d_sae."""
        return None

    def threshold(self, params: Mapping[str, np.ndarray], d_sae: int) -> np.ndarray | None:
        """What a preactivation must exceed for its feature to fire, [d_sae].

        None where that depends on the row's other features.
        """
        return np.zeros(d_sae, np.float32)

    def init_params(self, d_sae: int) -> dict[str, np.ndarray]:
        """The ``extra_params`` at the start of training, float32 [d_sae] each."""
        return {}

    def extra_loss(
        self, pre_BF: "jax.Array", z_BF: "jax.Array", params: Mapping[str, "jax.Array"]
    ) -> "jax.Array | None":
        """A term of the loss, [B]: this device's features' part of it on each row.

        Its sum over features and mean over kept rows are added to the reconstruction loss. None
        adds nothing.
        """
        return None

    def to_json(self) -> dict[str, Any]:
        """Its kind and fields, as :func:`vasae_jax.activations.from_json` reads them."""
        return {"kind": self.kind, **asdict(self)}

    def __str__(self) -> str:
        return self.kind
