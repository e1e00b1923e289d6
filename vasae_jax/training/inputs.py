"""What a run reads: its cache, the shuffled rows, and the arrays that its steps and start need."""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from vasae_jax.anchor.whitening import whitened_anchors
from vasae_jax.cache import Cache
from vasae_jax.config import Config, DataConfig
from vasae_jax.distributed.mesh import DATA, MODEL, check_rows, make_mesh, replicate, seed_key
from vasae_jax.sites import Site
from vasae_jax.stream import Shuffle, Stats, Stream, statistics, tokens_by_count
from vasae_jax.training.checks import check_cache, check_mesh, check_settings, features, order_seed
from vasae_jax.training.loss import StepInputs
from vasae_jax.training.probe import wants_probe
from vasae_jax.training.state import (
    InitInputs,
    TrainState,
    starting_rows,
    state_maker,
    target_rows,
)


def open_inputs(config: Config) -> tuple[Cache, Mesh, int]:
    """Cache, mesh and number of features of a run.

    Raises:
        UserError: the run cannot be trained with these settings.
    """
    check_settings(config)
    cache = Cache.open(config.data.cache)
    check_cache(config, cache)
    d_sae = features(config, cache.manifest.vocab_size)
    mesh = make_mesh(config.mesh)
    check_mesh(config, mesh.shape[DATA], mesh.shape[MODEL], d_sae)
    check_rows(config.data.batch, mesh)
    return cache, mesh, d_sae


def make_stream(config: Config, cache: Cache, sites: Sequence[Site] | None = None) -> Stream:
    """The shuffled training rows of ``sites`` (the config's, if none), this process's part."""
    data = config.data
    shuffle = Shuffle(
        data.batch,
        seed=order_seed(config),
        readers=data.readers,
        shuffle_chunks=data.shuffle_chunks,
    )
    return Stream(
        cache,
        [data.input_site] if sites is None else sites,
        "train",
        data.mask,
        shuffle,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def row_statistics(data: DataConfig, cache: Cache) -> Stats:
    """Mean and variance of the training rows under the config's mask."""
    return statistics(cache, data.input_site, "train", data.mask)


def load_inputs(
    config: Config, cache: Cache, mesh: Mesh, d_sae: int
) -> tuple[StepInputs, InitInputs]:
    """What the steps read, and what the state at step 0 is made from, both on the mesh."""
    stats = row_statistics(config.data, cache)
    rows = starting_rows(config, cache)
    targets = target_rows(config, cache, rows)
    on_mesh, mean = replicate(mesh, (rows, stats.mean.astype(np.float32)))
    anchors = on_mesh if targets.rows is rows else replicate(mesh, targets.rows)
    frequent = replicate(mesh, tokens_by_count(cache, "train"))
    init = InitInputs(
        seed_key(config.run.seed, mesh),
        mean,
        on_mesh,
        anchors,
        frequent,
        replicate(mesh, np.float32(config.sae.k / d_sae)),
    )
    variance = replicate(mesh, np.float32(stats.variance))
    within_cov = targets.within_cov
    whitened = (
        None if within_cov is None else replicate(mesh, whitened_anchors(targets.rows, within_cov))
    )
    tokens = replicate(mesh, targets.tokens) if wants_probe(config) else None
    return StepInputs(anchors, mean, variance, whitened, tokens=tokens), init


def init_run(config: Config, cache: Cache, mesh: Mesh, d_sae: int) -> tuple[StepInputs, TrainState]:
    """What the steps of a single run read, and its state at step 0, both on the mesh."""
    inputs, init = load_inputs(config, cache, mesh, d_sae)
    state: TrainState = state_maker(config, d_sae, mesh, init)(init)
    return inputs, state
