"""Small train states for tests of checkpoints, made without training."""

import jax.numpy as jnp

from vasae_jax.config import OptimConfig
from vasae_jax.training.state import Counters, TrainState, adam


def small_state(number: int, wide: int = 4) -> TrainState:
    """A state of ``number``s, and of rows of ``wide`` of them that differ in W_enc."""
    value = float(number)
    params = {
        "W_enc": value + jnp.sin(jnp.arange(8.0 * wide)).reshape(8, wide),
        "b_enc": jnp.full((8,), value),
        "W_dec": jnp.full((8, wide), value),
        "b_dec": jnp.full((wide,), value),
    }
    counters = Counters(jnp.full((8,), number, jnp.int32), jnp.full((8,), value))
    return TrainState(jnp.int32(number), params, adam(OptimConfig()).init(params), None, counters)
