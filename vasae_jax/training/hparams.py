"""Hyperparameters that enter a step as numbers, and how they change over a run.

A number that all runs share is compiled into the step. Where the runs of a pack differ in one, the
program takes each run's own as an argument instead. Both go through the same operations, so the
results are equal to the last bit; a quotient that a device might round differently is computed
here, once, on the host.

Before the pull starts nothing reads the nearest anchors and the gradient of the pull is 0, so those
steps run a program without either: the plain step. One program for all steps would have to test at
each step which it is, and copy its state to do so.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.config import AnchorConfig, Config, OptimConfig

Number = float | jax.Array
"""A number that is compiled in, or a traced one, []."""
Traced = Mapping[str, jax.Array]
"""Traced hyperparameters by name: [] each, or one a run, [runs]."""


class HParams(NamedTuple):
    """See :data:`SETTINGS` for the setting behind each."""

    anchor_weight: Number
    """lambda at its full weight"""
    lr: Number
    """peak learning rate of the decoder"""
    encoder_lr_ratio: Number
    """the encoder's learning rate over the decoder's"""
    warmup_rate: Number
    """share of the peak by which the learning rate rises in a step"""
    decay_rate: Number
    """share of the peak by which it falls in a step, at the end"""
    target_cosine: Number
    """cosine at which the pull ends"""
    pre_bias: Number
    """share of b_dec taken from the input"""
    sqrt_rate: Number
    """1 to weight features by the root of their firing rate, 0 to weight all equally"""
    k: Number
    """features that may fire on a row, a whole number"""


SETTINGS = {
    "anchor_weight": "anchor.weight",
    "lr": "optim.lr",
    "encoder_lr_ratio": "optim.encoder_lr_ratio",
    "warmup_rate": "optim.warmup",
    "decay_rate": "optim.decay",
    "target_cosine": "anchor.target_cosine",
    "pre_bias": "sae.pre_bias",
    "sqrt_rate": "anchor.feature_weight",
    "k": "sae.k",
}
"""The setting behind each hyperparameter."""


def peak_lr(optim: OptimConfig, d_sae: int) -> float:
    """The decoder's peak learning rate of a run with ``d_sae`` features.

    One over the root of the number of features is also how the rates of arXiv:2406.04093 scale.
    """
    return 8e-3 * math.sqrt(4096 / max(4096, d_sae)) if optim.lr is None else optim.lr


def hparams_of(config: Config, d_sae: int) -> HParams:
    """The hyperparameters of a run with ``d_sae`` features."""
    steps, optim = config.run.steps, config.optim
    return HParams(
        anchor_weight=config.anchor.weight,
        lr=peak_lr(optim, d_sae),
        encoder_lr_ratio=optim.encoder_lr_ratio,
        warmup_rate=1.0 / max(1.0, optim.warmup * steps),
        # The last step is one before the rate is 0, so a fall of a whole peak a step is no fall.
        decay_rate=1.0 / max(1.0, optim.decay * steps),
        target_cosine=config.anchor.target_cosine,
        pre_bias=config.sae.pre_bias,
        sqrt_rate=float(config.anchor.feature_weight == "sqrt_rate"),
        k=config.sae.k,
    )


def differing(configs: Sequence[Config], d_sae: int) -> dict[str, np.ndarray]:
    """The hyperparameters in which runs differ, [runs] each; none for a single run."""
    runs = [hparams_of(config, d_sae)._asdict() for config in configs]
    return {
        name: np.array([run[name] for run in runs], np.int32 if name == "k" else np.float32)
        for name, value in runs[0].items()
        if any(run[name] != value for run in runs)
    }


def learning_rate(step: jax.Array, hparams: HParams, steps: int) -> jax.Array:
    """The decoder's: linear warm-up, constant, linear fall to 0 at the last step; [] float32.

    ``step`` is the number of steps taken, below ``steps``.
    """
    at = step.astype(jnp.float32)
    share = jnp.minimum(
        1.0, jnp.minimum((at + 1.0) * hparams.warmup_rate, (steps - at) * hparams.decay_rate)
    )
    rate: jax.Array = jnp.asarray(hparams.lr, jnp.float32) * share
    return rate


def anchor_weight(step: jax.Array, hparams: HParams, anchor: AnchorConfig, steps: int) -> Number:
    """lambda at ``step``: 0 until ``anchor.start``, then linear to full over ``anchor.warmup``."""
    if not anchor.start and not anchor.warmup:
        return hparams.anchor_weight
    start, length = anchor.start * steps, max(anchor.warmup * steps, 1.0)
    risen = jnp.clip((step.astype(jnp.float32) - start) / length, 0.0, 1.0)
    return hparams.anchor_weight * risen


def first_pulled_step(config: Config) -> int:
    """The first step, counted from 1, that updates the nearest anchors.

    The gradient first has a part of the pull one step later.
    """
    if config.sae.method != "soft":
        return 1
    return max(1, math.ceil(config.anchor.start * config.run.steps))
