"""Small train states for tests of checkpoints, made without training."""

import jax.numpy as jnp

from vasae_jax.training.state import Counters, TrainState, adam


def small_state(number: int) -> TrainState:
    """A state whose every array is filled with ``number``."""
    value = float(number)
    params = {
        "W_enc": jnp.full((8, 4), value),
        "b_enc": jnp.full((8,), value),
        "W_dec": jnp.full((8, 4), value),
        "b_dec": jnp.full((4,), value),
    }
    counters = Counters(jnp.full((8,), number, jnp.int32), jnp.full((8,), value))
    return TrainState(jnp.int32(number), params, adam.init(params), None, counters)
