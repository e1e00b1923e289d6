"""The train state, created sharded, and the rows that features are pulled towards."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from vasae_jax.anchor.certificate import AnchorState, full_search, sharded_search
from vasae_jax.anchor.layer_anchors import (
    AnchorTokens,
    anchor_tokens,
    layer_anchors,
    vocabulary_tokens,
)
from vasae_jax.anchor.search import anchor_matrix
from vasae_jax.anchor.token_means import LayerAnchors
from vasae_jax.anchor.whitening import (
    TokenStart,
    WithinCov,
    anchor_rows,
    detector_rows,
    token_start,
)
from vasae_jax.cache import Cache
from vasae_jax.config import AnchorConfig, Config, OptimConfig
from vasae_jax.distributed.hosts import first_then_others
from vasae_jax.distributed.mesh import Rules, shardings
from vasae_jax.sae import Params, init_params


def starting_rows(config: Config, cache: Cache) -> np.ndarray:
    """Float32 [V, d]: a row for each token, for a decoder that starts at tokens or is tied."""
    if config.sae.method == "tied":
        return cache.embedding()
    return anchor_matrix(cache.embedding(), center=config.anchor.center)


class Targets(NamedTuple):
    """The anchors that features are pulled towards."""

    rows: np.ndarray
    """[A, d] unit float32"""
    within_cov: WithinCov | None = None
    """whitens both sides of a cosine, see :mod:`vasae_jax.anchor.whitening`; None: neither"""
    tokens: AnchorTokens | None = None
    """the token of each row; None without a pull"""
    start: TokenStart | None = None
    """features that start at tokens; None: none does"""


def token_starts(config: Config, d_sae: int, vocab_size: int) -> int:
    """How many of ``d_sae`` features start at tokens, if as many tokens are frequent enough."""
    anchor = config.anchor
    if config.sae.method != "soft" or anchor.kind == "embedding" or anchor.pulls == "decoder":
        return 0
    return min(int(anchor.init_fraction * d_sae), vocab_size)


def target_rows(config: Config, cache: Cache, start: np.ndarray, d_sae: int) -> Targets:
    """The anchors of a run.

    ``start`` are :func:`starting_rows`, which embedding anchors are equal to. Layer anchors are
    made on first use, by the first process while the others wait.

    Raises:
        UserError: the layer's anchors cannot be made, their files are damaged, or no token has
            a detector.
    """
    if config.sae.method != "soft":
        return Targets(np.zeros((1, start.shape[1]), np.float32))
    if config.anchor.kind == "embedding":
        return Targets(start, tokens=vocabulary_tokens(len(start)))
    data = config.data
    anchors = first_then_others(
        lambda: layer_anchors(cache, data.input_site, data.skip_positions, data.max_norm)
    )
    targets = layer_targets(anchors, config.anchor)
    count, within_cov = token_starts(config, d_sae, len(anchors.at.count)), targets.within_cov
    if not count or within_cov is None:
        return targets
    return targets._replace(start=token_start(anchors, config.anchor.kind, count, within_cov))


def layer_targets(anchors: LayerAnchors, config: AnchorConfig) -> Targets:
    """The layer's anchors as rows for the decoder, or as detectors for the encoder."""
    detectors = config.pulls == "encoder"
    tokens = anchor_tokens(anchors, config.kind, detectors=detectors)
    if detectors:
        return Targets(*detector_rows(anchors, config.kind), tokens)
    return Targets(anchor_rows(anchors, config.kind), tokens=tokens)


def pulled_name(anchor: AnchorConfig) -> Literal["W_enc", "W_dec"]:
    """The parameter whose rows are pulled."""
    return "W_enc" if anchor.pulls == "encoder" else "W_dec"


def pulled_rows(params: Params, anchor: AnchorConfig) -> jax.Array:
    """The matrix [F, d] whose rows are pulled."""
    return params[pulled_name(anchor)]


class Counters(NamedTuple):
    """Recent firing of each feature, split by feature."""

    idle: jax.Array
    """[F] int32, steps since the feature last fired; -1 if it has just started anew."""
    rate: jax.Array
    """[F] float32, moving average of the share of rows on which it fires."""


class TrainState(NamedTuple):
    """Everything that a step changes; the stream needs only ``step``."""

    step: jax.Array
    """[] int32, steps taken."""
    params: Params
    moments: optax.OptState
    """Adam's state."""
    anchor: AnchorState | None
    """Nearest-anchor state; None where the loss has no cached anchor."""
    counters: Counters


def adam(optim: OptimConfig) -> optax.GradientTransformation:
    """Adam without its learning rate."""
    return optax.scale_by_adam(b1=optim.b1, b2=optim.b2, eps=1e-8)


def uses_certificate(config: Config) -> bool:
    """Whether the run keeps cached nearest anchors (method soft, mode nearest)."""
    return config.sae.method == "soft" and config.anchor.mode == "nearest"


class InitInputs(NamedTuple):
    """What the state at step 0 is made from, see :func:`vasae_jax.sae.init_params`."""

    key: jax.Array
    mean: jax.Array
    """[d_in]"""
    rows: jax.Array
    """[V, d_in], a row for each token that a decoder may start at"""
    targets: jax.Array
    """[A, d_in], the anchors that features are pulled towards"""
    tokens: jax.Array
    """[V] int32, most frequent first"""
    firing_rate: jax.Array
    """[] float32, the firing rate that features start with"""
    std: jax.Array | float = 0.0
    """[] float32, standard deviation of an entry of the training rows"""
    pre_bias: jax.Array | float = 1.0
    """[] float32, the run's ``sae.pre_bias``"""
    token_start: TokenStart | None = None
    """features that start at tokens; None: none does"""


def state_init(
    config: Config, d_sae: int, find: Callable[[jax.Array, jax.Array], AnchorState] = full_search
) -> Callable[[InitInputs], TrainState]:
    """A function that makes the state at step 0; ``find`` searches all anchors."""

    def init(inputs: InitInputs) -> TrainState:
        key, mean, rows, _, tokens, *_ = inputs
        params = init_params(key, config.sae, d_sae, mean, rows, tokens, inputs.std)
        if inputs.token_start is not None:
            params = start_at_tokens(params, inputs.token_start, mean, inputs.pre_bias)
        counters = Counters(
            idle=jnp.zeros((d_sae,), jnp.int32),
            rate=jnp.full((d_sae,), inputs.firing_rate, jnp.float32),
        )
        anchor = None
        if uses_certificate(config):
            anchor = find(pulled_rows(params, config.anchor), inputs.targets)
        moments = adam(config.optim).init(params)
        return TrainState(jnp.zeros((), jnp.int32), params, moments, anchor, counters)

    return init


def start_at_tokens(
    params: Params, start: TokenStart, mean: jax.Array, pre_bias: jax.Array | float
) -> Params:
    """The first features at tokens; the others, and those of tokens without a detector, as before.

    A detector's product is taken with the row less ``mean`` [d]; b_enc makes up for what
    ``pre_bias`` leaves of that.
    """
    W_enc, W_dec, threshold = start
    offset = W_enc @ (mean - pre_bias * params["b_dec"])
    new = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": -threshold - offset}
    has_detector, n = threshold > 0, len(threshold)

    def put(old: jax.Array, rows: jax.Array) -> jax.Array:
        keep = has_detector.reshape(-1, *[1] * (rows.ndim - 1))
        return old.at[:n].set(jnp.where(keep, rows, old[:n]))

    return params | {name: put(params[name], rows) for name, rows in new.items()}


def state_maker(config: Config, d_sae: int, mesh: Mesh, like: InitInputs) -> jax.stages.Wrapped:
    """The jitted function from inputs shaped ``like`` these to the state at step 0.

    The state is sharded by the mesh's rules, and each device makes its part.
    """
    init = state_init(config, d_sae, sharded_search(mesh, d_sae))
    out = shardings(mesh, Rules().state(jax.eval_shape(state_init(config, d_sae), like)))
    return jax.jit(init, out_shardings=out)
