"""How features do while a run trains: nearness to their anchors, and what their names hold.

A feature's name is here the token of its nearest anchor, which a step knows. The ten names of a
finished run need a search of the whole vocabulary (:mod:`vasae_jax.names.by_layer`), which takes
longer than many steps. What a name holds is counted on some held-out rows, the same ones each time.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from vasae_jax.activations import activation_of
from vasae_jax.anchor.layer_anchors import AnchorTokens
from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.distributed.mesh import DATA, MODEL, Rules, replicate
from vasae_jax.sae import ForwardConfig, row_dots, unit_rows
from vasae_jax.sae.forward import active_features
from vasae_jax.stream.order import next_tokens
from vasae_jax.stream.source import Source
from vasae_jax.training.boards import COSINES, SHARES, Histogram, Histograms
from vasae_jax.training.hparams import first_pulled_step
from vasae_jax.training.loss import StepInputs
from vasae_jax.training.state import TrainState, pulled_name, uses_certificate
from vasae_jax.training.step import dead

SPLIT = "heldout"
ROWS = 2048
"""Held-out rows that are read."""
PIECES = 16
"""Places of the split that they are from, evenly spaced."""


class HeldOut(NamedTuple):
    """Some held-out rows."""

    x: np.ndarray
    """[n, d] in the cache's type"""
    keep: np.ndarray
    """bool [n]"""
    token: np.ndarray
    """int32 [n], the token that each row is at"""
    next_token: np.ndarray
    """int32 [n], the token after it in its window, -1 where none is known"""


def held_out_rows(config: Config, cache: Cache, parts: int) -> HeldOut:
    """About ROWS rows, or as many as there are; filled up to a multiple of ``parts``.

    Without a held-out split no row of them is kept.

    Raises:
        UserError: the cache is damaged.
    """
    data, ranges = config.data, _ranges(cache)
    if not ranges:
        blank = np.zeros((parts, cache.manifest.d_model), np.float32)
        return HeldOut(blank, np.zeros(parts, bool), *np.full((2, parts), -1, np.int32))
    batch = Source(cache, data.input_site, SPLIT, data.mask).read_async(ranges).result()
    token, next_token = _tokens(cache, ranges)
    fill = -len(token) % parts
    rows = HeldOut(batch.x, batch.keep, token, next_token)
    return HeldOut(*(np.pad(part, [(0, fill), (0, 0)][: part.ndim]) for part in rows))


def _ranges(cache: Cache) -> list[tuple[int, int]]:
    """Evenly spaced pieces of the held-out split."""
    count = cache.rows(SPLIT)
    if count <= ROWS:
        return [(0, count)] if count else []
    starts = [count * piece // PIECES for piece in range(PIECES)]
    return [(start, start + ROWS // PIECES) for start in starts]


def _tokens(cache: Cache, ranges: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The token of each row, and the one after it: unknown at the end of a piece."""
    tokens, positions = cache.column("tokens", SPLIT), cache.column("positions", SPLIT)
    at = [tokens.read(*part) for part in ranges]
    after = [
        next_tokens(piece, positions.read(*part)) for piece, part in zip(at, ranges, strict=True)
    ]
    return np.concatenate(at), np.concatenate(after)


MIN_FIRED = 5
"""Held-out rows that a feature must fire on for what its name holds to count."""


class FeatureStats(NamedTuple):
    """How every feature does; arrays [F] on every device."""

    cosine: jax.Array
    """float32, of the row that is pulled and its nearest anchor"""
    alive: jax.Array
    """bool, whether it is not :func:`vasae_jax.training.step.dead`"""
    fired: jax.Array
    """float32, held-out rows on which it fires"""
    hold: jax.Array
    """float32, the share of its activation there at (or one token before) its name"""


Probe = Callable[[int, TrainState], FeatureStats | None]
"""Begins to compute the stats of the state after a step; None before the pull starts."""


def make_probe(config: Config, cache: Cache, mesh: Mesh, inputs: StepInputs) -> Probe | None:
    """The probe of a run; None where no board asks for it, or features have no anchor.

    Raises:
        UserError: the held-out rows cannot be read.
    """
    tokens = inputs.tokens
    if tokens is None or not wants_probe(config):
        return None
    rows = replicate(mesh, held_out_rows(config, cache, mesh.shape[DATA]))
    forward = ForwardConfig(activation_of(config.sae), config.sae.pre_bias, axis=MODEL)
    program, first = _program(mesh, forward, pulled_name(config.anchor)), first_pulled_step(config)

    return lambda number, state: None if number < first else program(state, rows, tokens)


def wants_probe(config: Config) -> bool:
    """Whether a run has anchors, and a board that shows its features."""
    return uses_certificate(config) and bool(config.run.tensorboard or config.run.wandb)


def histograms(stats: FeatureStats) -> Histograms:
    """Alignment of live features, and hold of those that fire; empty ones are left out."""
    values = {
        "alignment": (stats.cosine[stats.alive], COSINES),
        "hold": (stats.hold[stats.fired >= MIN_FIRED], SHARES),
    }
    return {
        name: Histogram(np.clip(of_features, edges[0], edges[-1]), edges)
        for name, (of_features, edges) in values.items()
        if len(of_features)
    }


@cache
def _program(mesh: Mesh, forward: ForwardConfig, pulled: Literal["W_enc", "W_dec"]) -> Any:
    """The jitted (state, rows, tokens) -> FeatureStats; rows are split over ``data``.

    Runs of a pack share it where the arguments are equal.
    """

    def probe(state: TrainState, rows: HeldOut, tokens: AnchorTokens) -> FeatureStats:
        local = jax.shard_map(
            partial(_local_stats, forward=forward, pulled=pulled),
            mesh=mesh,
            in_specs=(Rules().state(state), P(DATA), P()),
            out_specs=P(),
            check_vma=False,
        )
        return local(state, rows, tokens)

    return jax.jit(probe)


def _local_stats(
    state: TrainState, rows: Any, tokens: AnchorTokens, forward: ForwardConfig, pulled: str
) -> FeatureStats:
    """The stats of this device's features on its rows, gathered from all; inside shard_map."""
    assert state.anchor is not None
    near = state.anchor.anchor_near
    features, x = len(near), rows.x.astype(jnp.float32)
    active = active_features(state.params, x, forward)
    fires = (active.values > 0) & rows.keep[:, None]
    before = tokens.before[near][active.ids]
    token = jnp.where(before, rows.next_token[:, None], rows.token[:, None])
    named = token == tokens.token[near][active.ids]

    def total(weight: jax.Array, where: jax.Array) -> jax.Array:
        part = jnp.where(where, weight, jnp.zeros_like(weight))
        summed: jax.Array = jax.lax.psum(jnp.zeros(features).at[active.ids].add(part), DATA)
        return summed

    fired = total(jnp.ones_like(active.values), fires)
    at_name, everywhere = total(active.values, fires & named), total(active.values, fires)
    cosine = row_dots(unit_rows(state.params[pulled]), state.anchor.anchor_rows)
    hold = at_name / jnp.where(everywhere > 0, everywhere, jnp.ones_like(everywhere))
    local = FeatureStats(cosine, ~dead(state.counters, state.step), fired, hold)
    gathered = jax.tree.map(lambda a: jax.lax.all_gather(a, MODEL, tiled=True), local)
    return cast(FeatureStats, gathered)
