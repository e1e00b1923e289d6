"""A few held-out rows to look at features on while a run trains."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal, NamedTuple

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
from vasae_jax.stream import next_tokens
from vasae_jax.stream.source import Source
from vasae_jax.training.boards import COSINES, SHARES, Histogram, Spread
from vasae_jax.training.hparams import pulled_name, sets_in
from vasae_jax.training.loss import Context
from vasae_jax.training.state import TrainState, uses_certificate
from vasae_jax.training.step import DEAD_STEPS

SPLIT = "heldout"
ROWS = 2048
"""Held-out rows that are looked at."""
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
    following: np.ndarray
    """int32 [n], the token after it in its window, -1 where none is known"""


def held_out_rows(config: Config, cache: Cache, parts: int) -> HeldOut:
    """About ROWS rows, or as many as there are; filled up to a multiple of ``parts``.

    A cache without a held-out split gives none that counts.

    Raises:
        UserError: the cache is damaged.
    """
    data, ranges = config.data, _ranges(cache)
    if not ranges:
        blank = np.zeros((parts, cache.manifest.d_model), np.float32)
        return HeldOut(blank, np.zeros(parts, bool), *np.full((2, parts), -1, np.int32))
    found = Source(cache, data.input_site, SPLIT, data.mask).read_async(ranges).result()
    token, following = _tokens(cache, ranges)
    fill = -len(token) % parts
    rows = HeldOut(found.x, found.keep, token, following)
    return HeldOut(*(np.pad(part, [(0, fill), (0, 0)][: part.ndim]) for part in rows))


def _ranges(source: Cache) -> list[tuple[int, int]]:
    """Evenly spaced pieces of the held-out split."""
    count = source.rows(SPLIT)
    if count <= ROWS:
        return [(0, count)] if count else []
    starts = [count * piece // PIECES for piece in range(PIECES)]
    return [(start, start + ROWS // PIECES) for start in starts]


def _tokens(cache: Cache, ranges: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """The token of each row, and the one after it: unknown at the end of a piece."""
    tokens, positions = cache.column("tokens", SPLIT), cache.column("positions", SPLIT)
    own = [tokens.read(*part) for part in ranges]
    after = [
        next_tokens(piece, positions.read(*part)) for piece, part in zip(own, ranges, strict=True)
    ]
    return np.concatenate(own), np.concatenate(after)


# How near features are to their anchors, and what these hold, while a run trains.
#
# A feature's name is here the token of its nearest anchor: the one that it is pulled towards, which
# a step knows. The ten names of a finished run come out of a search of the whole vocabulary
# (:mod:`vasae_jax.naming.layer`), which takes longer than many steps, so they are left for later.
# What a name holds is counted on some held-out rows, the same ones each time
# (:mod:`vasae_jax.training.heldout`).


LEAST = 5
"""Rows looked at that a feature must fire on for what its name holds to count."""


class FeatureStats(NamedTuple):
    """What is seen of every feature; arrays [F] on every device."""

    cosine: jax.Array
    """float32, of the row that is pulled and its nearest anchor"""
    alive: jax.Array
    """bool, whether the feature has fired in the last DEAD_STEPS steps"""
    fired: jax.Array
    """float32, held-out rows on which it fires"""
    hold: jax.Array
    """float32, the share of its activation there that is at (or just before) its name"""


Probe = Callable[[int, TrainState], FeatureStats | None]
"""Begins to look at the state after a step of that number; None before the pull sets in."""


def make_probe(config: Config, cache: Cache, mesh: Mesh, context: Context) -> Probe | None:
    """How to look at the features of a run; None where no board asks, or none has an anchor.

    Raises:
        UserError: the held-out rows cannot be read.
    """
    tokens = context.tokens
    if tokens is None or not wants_probe(config):
        return None
    rows = replicate(mesh, held_out_rows(config, cache, mesh.shape[DATA]))
    forward = ForwardConfig(activation_of(config.sae), config.sae.pre_bias, axis=MODEL)
    how = _How(forward, pulled_name(config))
    program, first = _program(mesh, how), sets_in(config)

    def look(number: int, state: TrainState) -> FeatureStats | None:
        if number < first:
            return None
        found: FeatureStats = program(state, rows, tokens)
        return found

    return look


def wants_probe(config: Config) -> bool:
    """Whether a board is to show what is seen of the features of a run that has anchors."""
    return uses_certificate(config) and bool(config.run.tensorboard or config.run.wandb)


def histograms(found: FeatureStats) -> Spread:
    """Of what was seen, by name; those of no feature are left out."""
    values = {
        "alignment": (found.cosine[found.alive], COSINES),
        "hold": (found.hold[found.fired >= LEAST], SHARES),
    }
    return {
        name: Histogram(np.clip(own, edges[0], edges[-1]), edges)
        for name, (own, edges) in values.items()
        if len(own)
    }


class _How(NamedTuple):
    """What a program depends on; runs of a pack share those that they can."""

    forward: ForwardConfig
    pulled: Literal["W_enc", "W_dec"]


@cache
def _program(mesh: Mesh, how: _How) -> Any:
    """The jitted (state, rows, tokens) -> Glimpse; rows are split over ``data``."""

    def look(state: TrainState, rows: HeldOut, tokens: AnchorTokens) -> FeatureStats:
        specs = Rules().state(state)
        local = jax.shard_map(
            partial(_look, how=how),
            mesh=mesh,
            in_specs=(specs, P(DATA), P()),
            out_specs=P(),
            check_vma=False,
        )
        found: FeatureStats = local(state, rows, tokens)
        return found

    return jax.jit(look)


def _look(state: TrainState, rows: Any, tokens: AnchorTokens, how: _How) -> FeatureStats:
    """What is seen of this device's features on its rows, gathered from all; inside shard_map."""
    assert state.anchor is not None
    near = state.anchor.anchor_near
    own, x = len(near), rows.x.astype(jnp.float32)
    active = active_features(state.params, x, how.forward)
    fires = (active.values > 0) & rows.keep[:, None]
    later = tokens.before[near][active.ids]
    met = jnp.where(later, rows.following[:, None], rows.token[:, None])
    named = met == tokens.token[near][active.ids]

    def total(weight: jax.Array, where: jax.Array) -> jax.Array:
        part = jnp.where(where, weight, jnp.zeros_like(weight))
        summed: jax.Array = jax.lax.psum(jnp.zeros(own).at[active.ids].add(part), DATA)
        return summed

    fired = total(jnp.ones_like(active.values), fires)
    held, whole = total(active.values, fires & named), total(active.values, fires)
    cosine = row_dots(unit_rows(state.params[how.pulled]), state.anchor.anchor_rows)
    hold = held / jnp.where(whole > 0, whole, jnp.ones_like(whole))
    seen = FeatureStats(cosine, state.counters.idle < DEAD_STEPS, fired, hold)
    everyone: FeatureStats = jax.tree.map(lambda a: jax.lax.all_gather(a, MODEL, tiled=True), seen)
    return everyone
