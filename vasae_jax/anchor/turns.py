"""Turns: in a step one feature in eight is pulled, and has its nearest anchor looked after.

The pull by a layer's scatter and the certificate are passes over all features that take longer than
Adam's. A feature moves by a hundredth of a radian in a step, so at every step they say nearly the
same. In turns each step pays an eighth, and a feature is pulled eight times as hard in its own:
weights in the loss sum to 1 over the features whose turn it is. docs/benchmarks.md has what that
changes in what is trained.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vasae_jax.distributed.mesh import MODEL

TURNS = 8
"""Steps in which every feature has its turn once."""


class Turn(NamedTuple):
    """The features of this device whose turn it is."""

    ids: jax.Array
    """[N] int32, places in this device's part of the features; the last may be beyond it"""
    has: jax.Array
    """[N] bool, whether it is that feature's turn; False for places beyond the part"""


def turn_at(step: jax.Array, features: int, *, whole: bool) -> Turn:
    """The turn at ``step`` among this device's ``features``; inside shard_map.

    Feature i of all devices has its turn where i and the step leave the same rest.

    Args:
        step: [] int32, steps taken before.
        features: of this device, as many as of every other.
        whole: give all features and mark them, for programs that do better without a gather.
    """
    first = (step - jax.lax.axis_index(MODEL) * features) % TURNS
    if whole:
        ids = jnp.arange(features, dtype=jnp.int32)
        return Turn(ids, ids % TURNS == first)
    ids = first + TURNS * jnp.arange(-(-features // TURNS), dtype=jnp.int32)
    return Turn(ids, ids < features)
