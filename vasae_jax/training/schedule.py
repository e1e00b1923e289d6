"""What changes over a run: the learning rate, the weight of the pull, and when the pull starts.

Before the pull starts nothing reads the nearest anchors and the gradient of the pull is 0, so those
steps run a program without either: the plain step. One program for all steps would have to test at
each step which it is, and copy its state to do so.
"""

import math

import jax
import jax.numpy as jnp

from vasae_jax.config import AnchorConfig, Config
from vasae_jax.training.hparams import HParams, Number


def learning_rate(step: jax.Array, hparams: HParams, steps: int) -> jax.Array:
    """Linear warm-up, constant, linear fall to 0 at the last step; [] float32.

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
