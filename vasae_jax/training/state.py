"""Everything a step changes, born sharded."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vasae_jax.anchor import AnchorState, anchor_matrix, full_search, sharded_search
from vasae_jax.anchor.layer_anchors import (
    AnchorTokens,
    anchor_tokens,
    layer_anchors,
    vocabulary_tokens,
)
from vasae_jax.anchor.token_means import LayerAnchors
from vasae_jax.anchor.whitening import WithinCov, anchor_rows, detector_rows
from vasae_jax.cache import Cache
from vasae_jax.config import AnchorConfig, Config
from vasae_jax.distributed.hosts import first_then_others
from vasae_jax.distributed.mesh import Rules, shardings
from vasae_jax.sae import Params, init_params
from vasae_jax.training.hparams import pulled

# What features are pulled towards in a run.


def starting_rows(config: Config, cache: Cache) -> np.ndarray:
    """Float32 [V, d]: a row for each token, for a decoder that starts at tokens or is tied."""
    if config.sae.method == "tied":
        return cache.embedding()
    return anchor_matrix(cache.embedding(), center=config.anchor.center)


class Targets(NamedTuple):
    """What rows are pulled towards."""

    rows: np.ndarray
    """[A, d] unit float32"""
    within_cov: WithinCov | None = None
    """by which both sides are compared, see :mod:`vasae_jax.anchor.whitening`"""
    tokens: AnchorTokens | None = None
    """what each row is of; None where nothing pulls"""


def target_rows(config: Config, cache: Cache, start: np.ndarray) -> Targets:
    """What the run pulls towards.

    ``start`` are :func:`starting_rows`: with embeddings as anchors they serve as both. Layer
    anchors are made on first use, by the first process while the others wait.

    Raises:
        UserError: the layer's anchors cannot be made, what is kept of them is damaged, or no
            token has a detector.
    """
    if config.sae.method != "soft":
        return Targets(np.zeros((1, start.shape[1]), np.float32))
    if config.anchor.kind == "embedding":
        return Targets(start, tokens=vocabulary_tokens(len(start)))
    data = config.data
    anchors = first_then_others(
        lambda: layer_anchors(cache, data.input_site, data.skip_positions, data.max_norm)
    )
    return pulled_to(anchors, config.anchor)


def pulled_to(anchors: LayerAnchors, config: AnchorConfig) -> Targets:
    """The layer's anchors, as the matrix that is pulled is to be near to them."""
    detectors = config.pulls == "encoder"
    tokens = anchor_tokens(anchors, config.kind, detectors=detectors)
    if detectors:
        return Targets(*detector_rows(anchors, config.kind), tokens)
    return Targets(anchor_rows(anchors, config.kind), tokens=tokens)


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
    config: Config, d_sae: int, look: Callable[[jax.Array, jax.Array], AnchorState] = full_search
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
    init = state_init(config, d_sae, sharded_search(mesh, d_sae))
    out = shardings(mesh, Rules().state(jax.eval_shape(state_init(config, d_sae), start)))
    return jax.jit(init, out_shardings=out)
