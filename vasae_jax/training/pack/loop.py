"""Training a pack: the loop of a single run, with a directory for each of its runs."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
from jax.sharding import Mesh

from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.devices.distributed import Stop, check_same, together
from vasae_jax.devices.mesh import MEMBER
from vasae_jax.devices.placement import seed_key
from vasae_jax.sae import choose_execution
from vasae_jax.stream import Stream
from vasae_jax.training.checkpoint import Checkpoints
from vasae_jax.training.checks import check_settings
from vasae_jax.training.events import Events
from vasae_jax.training.log import Log, say
from vasae_jax.training.loop import (
    Hooks,
    advance,
    announce,
    checked,
    compare_anchors,
    kept_checkpoints,
    on_device,
    prepare,
    until_asked,
)
from vasae_jax.training.loss import Context
from vasae_jax.training.pack.checks import check_pack
from vasae_jax.training.pack.log import PackLog
from vasae_jax.training.pack.state import Layout, PackState
from vasae_jax.training.pack.step import make_pack_step
from vasae_jax.training.phases import phases
from vasae_jax.training.resume import step_to_resume
from vasae_jax.training.rundir import RunDir, own_runs
from vasae_jax.training.settle import settled
from vasae_jax.training.state import state_init, state_maker


def train_pack(configs: Sequence[Config]) -> list[Path]:
    """Train, or resume, runs that differ in settings FREE alone; returns their directories.

    Each directory is what the run alone would leave: it may be resumed alone, or in another
    pack.

    Raises:
        UserError: a run alone would be refused, they cannot train together, they stand at
            different steps, or one diverged.
        Stopped: SIGINT or SIGTERM asked for it; a checkpoint of each run's last step is kept.
    """
    cache, mesh, d_sae, stream = together(lambda: _checked(configs))
    check_same(configs, cache.digest)
    first = settled(configs[0], mesh, (d_sae, cache.manifest.d_model))
    screen = first.sae.screen
    configs = [replace(config, sae=replace(config.sae, screen=screen)) for config in configs]
    with contextlib.ExitStack() as held:
        runs = together(lambda: own_runs(configs, cache, held))
        together(lambda: [held.enter_context(Events(c, cache, mesh)) for c in configs])
        kept = [held.enter_context(kept_checkpoints(config)) for config in configs]
        done = step_to_resume(kept, fall_back=first.run.fall_back)
        if done >= first.run.steps:
            say(f"all {len(runs)} runs of the pack are complete: {done} steps")
            return [run.path for run in runs]
        execution = choose_execution(first.sae.execution, jax.default_backend())
        say(f"a pack of {len(runs)} runs, {mesh.shape[MEMBER]} at a time; each:")
        announce(first, cache, mesh, d_sae, execution)
        if done:
            say(f"resuming the pack after step {done}")
        context, layout, pack = _begin(configs, cache, mesh, d_sae, kept, done)
        for run in runs:
            run.cut_metrics(done)
        steps = phases(
            first, lambda turn: make_pack_step(list(map(turn, configs)), mesh, layout, execution)
        )
        stop = held.enter_context(Stop())
        batches = until_asked(held.enter_context(stream.prefetch(done)), stop)
        opened = (
            _log(config, run, done, stream) for config, run in zip(configs, runs, strict=True)
        )
        logs = [held.enter_context(contextlib.closing(log)) for log in opened]

        def save(number: int, pack: PackState) -> None:
            for index, checkpoints in enumerate(kept):
                checkpoints.save(number, layout.take(pack, index))

        rows, log = on_device(batches, mesh, done, first.run.steps), PackLog(logs, layout, stream)
        pack = advance(first.run, rows, steps, pack, context, Hooks(log, save, stop))
        states = (layout.take(pack, index) for index in range(len(runs)))
        compare_anchors(first, zip(states, logs, strict=True), context, mesh)
    return [run.path for run in runs]


def _checked(configs: Sequence[Config]) -> tuple[Cache, Mesh, int, Stream]:
    """What the pack needs before it writes, or the UserError that stands against it."""
    for config in configs:
        check_settings(config)
    check_pack(configs)
    return checked(configs[0])


def _begin(
    configs: Sequence[Config],
    cache: Cache,
    mesh: Mesh,
    d_sae: int,
    kept: Sequence[Checkpoints],
    done: int,
) -> tuple[Context, Layout, PackState]:
    """What the steps read, how the pack lies on the mesh, and its state after step ``done``."""
    first = configs[0]
    context, start = prepare(first, cache, mesh)
    layout = Layout(jax.eval_shape(state_init(first, d_sae), start), len(configs), mesh)
    make = state_maker(first, d_sae, mesh, start)
    # Made or read one at a time, when the pack has room for it.
    states = (
        checkpoints.restore(done, layout.single)
        if done
        else make(start._replace(key=seed_key(config.run.seed, mesh)))
        for config, checkpoints in zip(configs, kept, strict=True)
    )
    return context, layout, layout.gather(states)


def _log(config: Config, run: RunDir, done: int, stream: Stream) -> Log:
    return Log(run, config, done, stream, name=str(run.path))
