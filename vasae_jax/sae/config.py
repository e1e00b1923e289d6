"""Static settings of a forward pass: which products, of which type, on which devices."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import numpy as np

from vasae_jax.activations import Activation, TopK

Execution = Literal["dense", "sparse"]


@dataclass(frozen=True)
class ForwardConfig:
    """Settings of a forward pass, fixed when it is compiled."""

    activation: Activation
    """Which features fire. In a pack whose runs differ in k, TopK with the largest of them."""
    pre_bias: float = 0.0
    """p, the share of b_dec taken from the input before encoding."""
    execution: Execution = "sparse"
    """dense: full products. sparse: all but the encoder's gather the active features (TopK)."""
    compute_dtype: str = "float32"
    """Type of the products' inputs."""
    screen: bool = False
    """Candidates for the top k are found by a bfloat16 product (TopK in sparse execution)."""
    unit: bool = False
    """Rows of W_dec keep norm 1: the part of their gradient along them is removed (TopK)."""
    axis: str | None = None
    """The mesh axis that splits the features; None where one device holds all."""
    rows_axis: str | None = None
    """The mesh axis that splits the rows of a batch."""
    split_rows: bool = False
    """Each device along ``axis`` gets x_hat of its share of the rows only."""

    @property
    def dtype(self) -> np.dtype:
        """``compute_dtype`` as a type."""
        return jnp.dtype(self.compute_dtype)

    @property
    def max_k(self) -> int:
        """The k of TopK, the width of arrays of active features."""
        assert isinstance(self.activation, TopK)
        return self.activation.k


def choose_execution(asked: str, platform: str) -> Execution:
    """The execution to use: ``asked``, or by platform where that is ``auto``.

    On a TPU all F products take less time than gathering k rows; elsewhere sparse execution is
    faster.
    """
    if asked == "auto":
        return "dense" if platform == "tpu" else "sparse"
    return "dense" if asked == "dense" else "sparse"
