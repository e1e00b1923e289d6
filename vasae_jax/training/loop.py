"""The training loop: from a config and a cache to checkpoints, from top to bottom."""

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from vasae_jax.anchor import sharded_staleness
from vasae_jax.anchor.whitening import whitened_anchors
from vasae_jax.cache import Cache
from vasae_jax.config import Config, RunConfig
from vasae_jax.distributed.hosts import StopOnAll, check_same_on_all, raise_on_all
from vasae_jax.distributed.mesh import (
    DATA,
    MODEL,
    check_rows,
    make_mesh,
    replicate,
    rows_on_mesh,
    seed_key,
)
from vasae_jax.sae import choose_execution
from vasae_jax.stream import Batch as HostBatch
from vasae_jax.stream import Prefetch, Shuffle, Stats, Stream, statistics, tokens_by_count
from vasae_jax.training.autotune import autotuned
from vasae_jax.training.checkpoint import Checkpoints, step_to_resume
from vasae_jax.training.checks import check_cache, check_mesh, check_settings, features, order_seed
from vasae_jax.training.events import Events
from vasae_jax.training.hparams import phases, pulled
from vasae_jax.training.log import Log, print_once
from vasae_jax.training.loss import Batch, Context
from vasae_jax.training.probe import make_probe, wants_probe
from vasae_jax.training.run_dir import own_runs
from vasae_jax.training.state import Start, TrainState, make_state, starting_rows, target_rows
from vasae_jax.training.step import make_step
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.signals import Stopped

_POLL = 0.1  # seconds after which a wait for a batch looks for a signal
B = TypeVar("B")
C = TypeVar("C")
S = TypeVar("S")
S_contra = TypeVar("S_contra", contravariant=True)
T = TypeVar("T")
M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)


def train(config: Config) -> Path:
    """Train, or resume, the run that ``config`` describes; returns its directory.

    >>> vj.train(config) == Path(config.run.out)
    True

    Raises:
        UserError: the settings, the cache or the output cannot be used (before anything
            compiles or is written), or the run diverged.
        Stopped: SIGINT or SIGTERM asked for it; a checkpoint of the last step is kept.
    """
    cache, mesh, d_sae, stream = raise_on_all(lambda: _checked_alone(config))
    check_same_on_all([config], cache.digest)
    config = autotuned(config, mesh, (d_sae, cache.manifest.d_model))
    with contextlib.ExitStack() as held:
        (run,) = raise_on_all(lambda: own_runs([config], cache, held))
        events = raise_on_all(lambda: held.enter_context(Events(config, cache, mesh)))
        checkpoints = held.enter_context(kept_checkpoints(config))
        done = step_to_resume([checkpoints], skip_damaged=config.run.skip_damaged)
        if done >= config.run.steps:
            print_once(f"{run.path} is complete: {done} steps")
            return run.path
        execution = choose_execution(config.sae.execution, jax.default_backend())
        announce(config, cache, mesh, d_sae, execution)
        context, state = begin(config, cache, mesh, d_sae)
        if done:
            print_once(f"resuming {run.path} after step {done}")
            state = checkpoints.restore(done, state)
        run.cut_metrics(done)
        probe = raise_on_all(lambda: make_probe(config, cache, mesh, context))
        raise_on_all(lambda: events.train(done))  # a full disk on one host is told on all
        steps = phases(config, lambda turn: make_step(turn(config), mesh, state, execution))
        with (
            StopOnAll() as stop,  # only now that there is something to lose: before, signals end us
            stream.prefetch(done) as host_batches,
            contextlib.closing(Log(run, config, done, stream, probe=probe)) as log,
        ):
            asked = until_asked(host_batches, stop)
            batches = on_device(asked, partial(send, mesh), done, config.run.steps)
            hooks = Hooks(log, checkpoints.save, stop)
            state = advance(config.run, batches, steps, state, context, hooks)
            compare_anchors(config, [(state, log)], context, mesh)
    return run.path


class Notes(Protocol[S_contra, M_contra]):
    """What is told of each step's metrics; see :class:`vasae_jax.training.log.Log`."""

    def note(self, step: int, metrics: M_contra, state: S_contra) -> None:
        """Keep the metrics of one step, and what is to be seen in the state after it."""

    def flush(self) -> None:
        """Report what is kept."""

    def check(self, step: int, metrics: M_contra) -> None:
        """Raise UserError where a step's metrics say that a run has diverged."""


@dataclass(frozen=True)
class Hooks(Generic[S, M]):
    """What goes on beside the steps."""

    log: Notes[S, M]
    save: Callable[[int, S], None]
    """Keeps the state after the step of that number."""
    stop: StopOnAll


def advance(
    config: RunConfig,
    batches: Iterable[tuple[int, B]],
    steps: Callable[[int], Callable[[S, B, C], tuple[S, M]]],
    state: S,
    context: C,
    hooks: Hooks[S, M],
) -> S:
    """The state after all of the numbered ``batches``; what is due is logged and saved.

    Raises:
        UserError: the run diverged, or cannot be written.
        Stopped: after saving the step at which ``hooks.stop`` said so, or where no batch came.
    """
    log, done = hooks.log, 0
    for number, batch in batches:
        state, metrics = steps(number)(state, batch, context)
        log.flush()  # the step before's, now that the device has this one to do
        if _due(number, config.log_every, config.steps):
            log.note(number, metrics, state)
        stopped = hooks.stop.after(number)
        if stopped or _due(number, config.checkpoint_every, config.steps):
            log.flush()
            log.check(number, metrics)
            hooks.save(number, state)
        if stopped:
            raise Stopped(stopped, _stop_message(stopped, number, config.out))
        done = number
    if done < config.steps and (stopped := hooks.stop.requested):
        raise Stopped(stopped, f"stopped by {_name(stopped)} before a batch was read")
    return state


def kept_checkpoints(config: Config) -> Checkpoints:
    """The checkpoints of a run, as many as it is to keep."""
    run = config.run
    return Checkpoints(run.out, keep=run.keep, keep_every=run.keep_every or None)


def compare_anchors(
    config: Config, found: Iterable[tuple[TrainState, Log]], context: Context, mesh: Mesh
) -> None:
    """Report cached anchors against a full search, in each run's own log; none where none pull."""
    look = jax.jit(lambda W, *rest: sharded_staleness(mesh, W.shape[0])(W, *rest))
    for state, log in found:
        if state.anchor is not None:
            rows = pulled(state.params, config)
            log.searched(look(rows, context.anchors, state.anchor))


def _checked_alone(config: Config) -> tuple[Cache, Mesh, int, Stream]:
    if config.mesh.member > 1:
        raise UserError(
            f"--mesh.member is {config.mesh.member}; expected 1 for a single run (a config file "
            "with a list of them trains a pack)"
        )
    cache, mesh, d_sae = checked(config)
    return cache, mesh, d_sae, make_stream(config, cache)


def checked(config: Config) -> tuple[Cache, Mesh, int]:
    """Cache, mesh and number of features of a run, or the UserError that stands against it."""
    check_settings(config)
    cache = Cache.open(config.data.cache)
    check_cache(config, cache)
    d_sae = features(config, cache.manifest.vocab_size)
    mesh = make_mesh(config.mesh)
    check_mesh(config, mesh.shape[DATA], mesh.shape[MODEL], d_sae)
    check_rows(config.data.batch, mesh)
    return cache, mesh, d_sae


def make_stream(config: Config, cache: Cache) -> Stream:
    """The shuffled training rows of ``config``, this process's part."""
    data = config.data
    return Stream(
        cache,
        data.input_site,
        "train",
        data.mask,
        shuffle_of(config),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def shuffle_of(config: Config) -> Shuffle:
    """How the training rows of ``config`` are mixed."""
    data = config.data
    return Shuffle(
        data.batch,
        seed=order_seed(config),
        readers=data.readers,
        shuffle_chunks=data.shuffle_chunks,
    )


def run_statistics(config: Config, cache: Cache) -> Stats:
    """Mean and variance of the training rows under the config's mask."""
    data = config.data
    return statistics(cache, data.input_site, "train", data.mask)


def begin(config: Config, cache: Cache, mesh: Mesh, d_sae: int) -> tuple[Context, TrainState]:
    """What the steps read, and the state at step 0, both on the mesh."""
    context, start = prepare(config, cache, mesh)
    return context, make_state(config, d_sae, mesh, start)


def prepare(config: Config, cache: Cache, mesh: Mesh) -> tuple[Context, Start]:
    """What the steps read, and what the state at step 0 is made from, both on the mesh."""
    stats = run_statistics(config, cache)
    rows = starting_rows(config, cache)
    targets = target_rows(config, cache, rows)
    anchors, mean = replicate(mesh, (rows, stats.mean.astype(np.float32)))
    pulled_to = anchors if targets.rows is rows else replicate(mesh, targets.rows)
    frequent = replicate(mesh, tokens_by_count(cache, "train"))
    start = Start(seed_key(config.run.seed, mesh), mean, anchors, pulled_to, frequent)
    variance = replicate(mesh, np.float32(stats.variance))
    within_cov = targets.within_cov
    by_scatter = (
        None if within_cov is None else replicate(mesh, whitened_anchors(targets.rows, within_cov))
    )
    tokens = replicate(mesh, targets.tokens) if wants_probe(config) else None
    return Context(pulled_to, mean, variance, by_scatter, tokens=tokens), start


def until_asked(batches: Prefetch[T], stop: StopOnAll) -> Iterator[T]:
    """The endless ``batches``, up to the first that a signal comes in the wait for."""
    while True:
        while not batches.wait(_POLL):
            if stop.requested:
                return
        yield next(batches)


def on_device(
    batches: Iterable[tuple[int, T]], send: Callable[[T], B], done: int, steps: int
) -> Iterator[tuple[int, B]]:
    """Batches on the mesh, one sent ahead of the step that needs it, numbered from 1."""
    source = (send(host) for _, host in batches)
    ahead = next(source, None)
    for number in range(done + 1, steps + 1):
        batch = ahead
        if batch is None:
            return
        if number < steps:
            ahead = next(source, None)
        yield number, batch


def send(mesh: Mesh, host: HostBatch) -> Batch:
    """A batch on the mesh, of which each process has read its part."""
    return Batch(*rows_on_mesh(mesh, (host.x, np.asarray(host.keep))))


def _due(number: int, every: int, last: int) -> bool:
    return number % every == 0 or number == last


def announce(config: Config, cache: Cache, mesh: Mesh, d_sae: int, execution: str) -> None:
    """Say what is trained and how."""
    axes = " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    print_once(
        f"{config.sae.method} SAE on {config.data.input_site} of {cache.manifest.model.id}: "
        f"{d_sae} features, k {config.sae.k}, {config.run.steps} steps of {config.data.batch} "
        f"rows, {execution} execution in {config.sae.compute_dtype}"
        f"{' screened in bfloat16' if config.sae.screen == 'on' else ''}, "
        f"mesh {axes} on {jax.default_backend()}"
    )


def _stop_message(number: int, step: int, path: str) -> str:
    name = _name(number)
    return f"stopped by {name} after step {step}, kept in {path}; run the same command to continue"


def _name(number: int) -> str:
    return signal.Signals(number).name
