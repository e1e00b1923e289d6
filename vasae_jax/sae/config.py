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
    """Which products of TopK are made in full."""
    compute_dtype: str = "float32"
    """Type of the products' inputs."""
    screen: bool = False
    """A float32 product with the encoder is screened in bfloat16 (TopK in sparse execution)."""
    unit: bool = False
    """The rows of W_dec have norm 1 and keep it: their gradient only turns them (TopK)."""
    axis: str | None = None
    """The mesh axis that splits the features; None where one device holds all."""
    rows_axis: str | None = None
    """The one that splits the rows; its devices take part in the same decisions."""
    split_rows: bool = False
    """Each device along ``axis`` gets x_hat of its own part of the rows alone."""

    @property
    def dtype(self) -> np.dtype:
        """``compute_dtype`` as a type."""
        return jnp.dtype(self.compute_dtype)

    @property
    def max_k(self) -> int:
        """The k of TopK: arrays of active features are so wide."""
        assert isinstance(self.activation, TopK)
        return self.activation.k


def choose_execution(asked: str, platform: str) -> Execution:
    """The execution to use: ``asked``, or by platform where that is ``auto``.

    A TPU's matrix unit finishes all F products before its gathers finish k; elsewhere the
    sparse form does a small part of the work.
    """
    if asked == "auto":
        return "dense" if platform == "tpu" else "sparse"
    return "dense" if asked == "dense" else "sparse"
