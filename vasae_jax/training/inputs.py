"""What a run reads: its cache, the shuffled rows, and the arrays that its steps and start need."""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from vasae_jax.anchor.whitening import whitened_anchors
from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.distributed.mesh import DATA, MODEL, check_rows, make_mesh, replicate, seed_key
from vasae_jax.stream.order import Shuffle
from vasae_jax.stream.statistics import statistics, tokens_by_count
from vasae_jax.stream.stream import Stream
from vasae_jax.training.checks import (
    check_cache,
    check_deviation,
    check_mesh,
    check_pack,
    check_settings,
    features,
    order_seed,
)
from vasae_jax.training.loss import StepInputs
from vasae_jax.training.pack import sites_of, widest
from vasae_jax.training.probe import wants_probe
from vasae_jax.training.state import (
    InitInputs,
    TrainState,
    starting_rows,
    state_maker,
    target_rows,
)


def open_inputs(configs: Sequence[Config]) -> tuple[Cache, Mesh, int]:
    """Cache, mesh and number of features of runs that may train together.

    Raises:
        UserError: they cannot be trained with these settings.
    """
    for config in configs:
        check_settings(config)
    first = configs[0]
    cache = Cache.open(first.data.cache)
    for config in configs:
        check_cache(config, cache)
    d_sae = features(first, cache.manifest.vocab_size)
    mesh = make_mesh(first.mesh)
    check_rows(first.data.batch, mesh)
    check_mesh(widest(configs), mesh.shape[DATA], mesh.shape[MODEL], d_sae)
    check_pack(configs, d_sae // mesh.shape[MODEL], jax.default_backend())
    return cache, mesh, d_sae


def make_stream(configs: Sequence[Config], cache: Cache) -> Stream:
    """The shuffled training rows of the runs' sites, this process's part."""
    data, seed = configs[0].data, order_seed(configs[0])
    shuffle = Shuffle(data.batch, seed, data.readers, data.shuffle_chunks)
    return Stream(
        cache,
        sites_of(configs),
        "train",
        data.mask,
        shuffle,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def load_inputs(
    config: Config, cache: Cache, mesh: Mesh, d_sae: int
) -> tuple[StepInputs, InitInputs]:
    """What the steps read, and what the state at step 0 is made from, both on the mesh."""
    stats = statistics(cache, config.data.input_site, "train", config.data.mask)
    deviation = math.sqrt(stats.variance / len(stats.mean))
    check_deviation(config, deviation)
    rows = starting_rows(config, cache)
    targets = target_rows(config, cache, rows, d_sae)
    on_mesh, mean = replicate(mesh, (rows, stats.mean.astype(np.float32)))
    anchors = on_mesh if targets.rows is rows else replicate(mesh, targets.rows)
    frequent = replicate(mesh, tokens_by_count(cache, "train"))
    rate, pre_bias = replicate(mesh, of_run(config, d_sae))
    init = InitInputs(
        seed_key(config.run.seed, mesh),
        mean,
        on_mesh,
        anchors,
        frequent,
        rate,
        replicate(mesh, np.float32(deviation)),
        pre_bias,
        None if targets.start is None else replicate(mesh, targets.start),
    )
    variance = replicate(mesh, np.float32(stats.variance))
    whitened = None
    if targets.within_cov is not None:
        whitened = replicate(mesh, whitened_anchors(targets.rows, targets.within_cov))
    tokens = replicate(mesh, targets.tokens) if wants_probe(config) else None
    return StepInputs(anchors, mean, variance, whitened, tokens=tokens), init


def of_run(config: Config, d_sae: int) -> tuple[np.float32, np.float32]:
    """``firing_rate`` and ``pre_bias`` of :class:`InitInputs`, in which runs may differ."""
    return np.float32(config.sae.k / d_sae), np.float32(config.sae.pre_bias)


def init_run(config: Config, cache: Cache, mesh: Mesh, d_sae: int) -> tuple[StepInputs, TrainState]:
    """What the steps of a single run read, and its state at step 0, both on the mesh."""
    inputs, init = load_inputs(config, cache, mesh, d_sae)
    return inputs, state_maker(config, d_sae, mesh, init)(init)
