"""Everything a step changes, born sharded."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vasae_jax.anchor import AnchorState, search, spread_search
from vasae_jax.config import Config
from vasae_jax.devices.mesh import Rules, shardings
from vasae_jax.sae import Params, init_params
from vasae_jax.training.pulled import pulled


class Counters(NamedTuple):
    """What is remembered about each feature's firing, split by feature."""

    idle: jax.Array
    """[F] int32, steps since the feature last fired."""
    rate: jax.Array
    """[F] float32, moving average of the share of rows on which it fires."""


class TrainState(NamedTuple):
    """The whole state of training; the stream needs only ``step``."""

    step: jax.Array
    """[] int32, steps taken."""
    params: Params
    moments: optax.OptState
    """Adam's state."""
    anchor: AnchorState | None
    """Nearest-anchor state; None where the loss has no cached anchor."""
    counters: Counters


adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


def uses_certificate(config: Config) -> bool:
    """Whether the run keeps cached nearest anchors (method soft, mode nearest)."""
    return config.sae.method == "soft" and config.anchor.mode == "nearest"


class Start(NamedTuple):
    """What the state at step 0 is made from, see :func:`vasae_jax.sae.init_params`."""

    key: jax.Array
    mean: jax.Array
    """[d_in]"""
    rows: jax.Array
    """[V, d_in], a row for each token that a decoder may start at"""
    targets: jax.Array
    """[A, d_in], the anchors that it is pulled towards"""
    tokens: jax.Array
    """[V] int32"""
    rate: jax.Array | None = None
    """[] float32, the firing rate that features start with; None: that of the settings"""


def state_init(
    config: Config, d_sae: int, look: Callable[[jax.Array, jax.Array], AnchorState] = search
) -> Callable[[Start], TrainState]:
    """A function that makes the state at step 0; ``look`` searches all anchors."""

    def init(start: Start) -> TrainState:
        params = init_params(start.key, config.sae, d_sae, start.mean, start.rows, start.tokens)
        rate = config.sae.k / d_sae if start.rate is None else start.rate
        counters = Counters(
            idle=jnp.zeros((d_sae,), jnp.int32),
            rate=jnp.full((d_sae,), rate, jnp.float32),
        )
        anchor = look(pulled(params, config), start.targets) if uses_certificate(config) else None
        return TrainState(jnp.zeros((), jnp.int32), params, adam.init(params), anchor, counters)

    return init


def make_state(config: Config, d_sae: int, mesh: Mesh, start: Start) -> TrainState:
    """State at step 0, sharded by the mesh's rules; each device makes its part."""
    state: TrainState = state_maker(config, d_sae, mesh, start)(start)
    return state


def state_maker(config: Config, d_sae: int, mesh: Mesh, start: Start) -> jax.stages.Wrapped:
    """:func:`make_state` as a jitted function; of ``start`` only the shapes count."""
    init = state_init(config, d_sae, spread_search(mesh, d_sae))
    out = shardings(mesh, Rules().state(jax.eval_shape(state_init(config, d_sae), start)))
    return jax.jit(init, out_shardings=out)
