"""The training loop: from configs and a cache to checkpoints, from top to bottom.

A single run is a pack of one: the same loop, the same step, the same checks.
"""

import contextlib
import math
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import jax
import numpy as np
from jax.sharding import Mesh

from vasae_jax.anchor.certificate import sharded_staleness
from vasae_jax.cache import Cache
from vasae_jax.config import Config, RunConfig
from vasae_jax.distributed.hosts import (
    StopOnAll,
    broadcast_from_first,
    check_same_on_all,
    raise_on_all,
)
from vasae_jax.distributed.mesh import MEMBER, replicate, rows_on_mesh, seed_key
from vasae_jax.sae import choose_execution
from vasae_jax.sae.config import Execution
from vasae_jax.sites import Site
from vasae_jax.stream.prefetch import Prefetch
from vasae_jax.stream.source import Batch as HostBatch
from vasae_jax.stream.stream import Stream
from vasae_jax.training.active_runs import ActiveRuns, OpenRun
from vasae_jax.training.autotune import autotuned_runs
from vasae_jax.training.checkpoint import open_checkpoints, step_to_resume
from vasae_jax.training.checks import check_single, rate_warning
from vasae_jax.training.events import Events
from vasae_jax.training.inputs import load_inputs, make_stream, of_run, open_inputs
from vasae_jax.training.log import Log, print_once
from vasae_jax.training.loss import Batch, StepInputs
from vasae_jax.training.pack import Layout, PackStep, States, rounds_of, sites_of
from vasae_jax.training.probe import make_probe
from vasae_jax.training.run_dir import claim_runs, with_absolute_cache
from vasae_jax.training.state import TrainState, pulled_rows, state_init, state_maker
from vasae_jax.training.status import read_early_end
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.signals import Stopped

_POLL = 0.1  # seconds after which a wait for a batch looks for a signal
Inputs = dict[Site, StepInputs]
"""What the steps read, by site."""
Batches = Mapping[Site, Batch]
"""A batch on the mesh, by site."""


@dataclass(frozen=True)
class Plan:
    """Runs that have been checked, and what they are trained on."""

    configs: Sequence[Config]
    cache: Cache
    mesh: Mesh
    d_sae: int
    stream: Stream

    @property
    def run(self) -> RunConfig:
        """What all runs have in common of how long they are, what is logged and what is kept."""
        return self.configs[0].run

    @property
    def execution(self) -> Execution:
        """How the active features are multiplied on this machine."""
        return choose_execution(self.configs[0].sae.execution, jax.default_backend())


def train(config: Config) -> Path:
    """Train, or resume, the run that ``config`` describes; returns its directory.

    >>> vj.train(config) == Path(config.run.out)
    True

    Raises:
        UserError: the settings, the cache or the output cannot be used (before anything
            compiles or is written), or the run diverged.
        Stopped: SIGINT or SIGTERM asked for it; a checkpoint of the last step is kept.
    """
    with raise_on_all():
        check_single(config)
    _train([config], leave_diverged=False)
    return Path(config.run.out)


def train_pack(configs: Sequence[Config]) -> list[Path]:
    """Train, or resume, runs that differ only in :data:`vasae_jax.training.checks.FREE`.

    Returns their directories. Each holds what the run alone would leave: it may be resumed alone,
    or in another pack.

    Raises:
        UserError: as :func:`run_pack` does, or a run diverged; the others have gone on.
        Stopped: SIGINT or SIGTERM asked for it; a checkpoint of each run's last step is kept.
    """
    paths = run_pack(configs)
    diverged = [path for path in paths if read_early_end(path)]
    if diverged:
        raise UserError(
            f"{', '.join(map(str, diverged))} diverged and were left at their last checkpoints; "
            "expected finite numbers (a lower --optim.lr or a longer --optim.warmup may help)"
        )
    return paths


def run_pack(configs: Sequence[Config]) -> list[Path]:
    """Train, or resume, the runs of a pack; those that have ended before their last step stay so.

    Raises:
        UserError: a run alone would be refused, they cannot train together, or they stand at
            different steps.
        Stopped: SIGINT or SIGTERM asked for it; a checkpoint of each run's last step is kept.
    """
    unfinished = [config for config in configs if not _ended_early(config)]
    if unfinished:
        _train(unfinished, leave_diverged=True)
    return [Path(config.run.out) for config in configs]


def _train(configs: Sequence[Config], *, leave_diverged: bool) -> None:
    """Check runs that may train together, and train or resume them; see :class:`ActiveRuns`.

    Raises:
        UserError: what is wrong with them, on all processes, before anything is written.
    """
    with raise_on_all():
        cache, mesh, d_sae = open_inputs(configs)
        stream = make_stream(configs, cache)
    check_same_on_all(configs, cache.digest)
    configs = autotuned_runs(configs, mesh, (d_sae, cache.manifest.d_model))
    configs = [with_absolute_cache(config) for config in configs]  # as they are written down
    plan = Plan(configs, cache, mesh, d_sae, stream)
    _execute(plan, leave_diverged=leave_diverged)


def _execute(plan: Plan, *, leave_diverged: bool) -> None:
    """Open the runs of ``plan``, make or restore their states, and take the steps that are left."""
    with contextlib.ExitStack() as resources:
        runs = _open_runs(plan, resources)
        name = str(runs[0].dir.path) if len(runs) == 1 else "the pack"
        done = step_to_resume([run.checkpoints for run in runs], skip_damaged=plan.run.skip_damaged)
        if done >= plan.run.steps:
            print_once(f"{name} is complete: {done} steps")
            return
        print_once(_announcement(plan))
        if done:
            print_once(f"resuming {name} after step {done}")
        inputs, layout, states = _start(plan, runs, done)
        _warn_of_rates(plan, inputs)
        logs = _start_logs(plan, runs, inputs, done, resources)
        step = PackStep(plan.configs, plan.mesh, layout, plan.execution)
        active = ActiveRuns(runs, logs, step, layout, plan.stream, leave_diverged=leave_diverged)
        # Only now that there is something to lose: before, a signal ends the process.
        stop = resources.enter_context(StopOnAll())
        host_batches = resources.enter_context(plan.stream.prefetch(done))
        batches = _batches_on_mesh(plan, host_batches, stop, done)
        states = take_steps(plan.run, batches, step, states, inputs, active, stop)
        finished = [(runs[n].config, logs[n], layout.take(states, n)) for n in active.numbers]
        _report_staleness(finished, inputs, plan.mesh)


def take_steps(
    run: RunConfig,
    batches: Iterable[tuple[int, Batches]],
    step: PackStep,
    states: States,
    inputs: Inputs,
    active: ActiveRuns,
    stop: StopOnAll,
) -> States:
    """The states after all of the numbered ``batches``; what is due is logged and saved.

    Raises:
        UserError: a run diverged, unless the others are to go on; or it cannot be written.
        Stopped: a signal came; the step that it came in is saved, if there was one.
    """
    done = 0
    for number, batch in batches:
        states, metrics = step(number, states, batch, inputs)
        active.flush()  # the step before's, now that the device has this one to do
        if _due(number, run.log_every, run.steps):
            active.note(number, metrics, states)
        stopped = stop.after(number)
        if stopped or _due(number, run.checkpoint_every, run.steps):
            active.save(number, metrics, states)
        if stopped:
            raise Stopped(
                stopped,
                f"stopped by {signal.Signals(stopped).name} after step {number}, kept in "
                f"{run.out}; run the same command to continue",
            )
        done = number
        if not active.numbers:
            break
    if done < run.steps and (stopped := stop.requested):
        name = signal.Signals(stopped).name
        raise Stopped(stopped, f"stopped by {name} before a batch was read")
    return states


def _due(number: int, every: int, last: int) -> bool:
    return number % every == 0 or number == last


def _ended_early(config: Config) -> bool:
    """Whether the first process sees that a run ended before its last step; prints that it did."""
    path = Path(config.run.out)

    def read() -> str:
        end = read_early_end(path)
        return f"has {end.status} at step {end.step}" if end else ""

    ended = broadcast_from_first(read)
    if not ended or config.run.overwrite:
        return False
    print_once(f"{path} {ended} and is left as it is")
    return True


def _open_runs(plan: Plan, resources: contextlib.ExitStack) -> list[OpenRun]:
    """The directories of runs with what is written there, open until ``resources`` is closed."""
    configs, cache = plan.configs, plan.cache
    with raise_on_all():
        dirs = claim_runs(configs, cache, resources)
    with raise_on_all():
        events = [resources.enter_context(Events(each, cache, plan.mesh)) for each in configs]
    checkpoints = [resources.enter_context(open_checkpoints(each.run)) for each in configs]
    return [OpenRun(*each) for each in zip(configs, dirs, checkpoints, events, strict=True)]


def _start(plan: Plan, runs: Sequence[OpenRun], done: int) -> tuple[Inputs, Layout, States]:
    """What the steps on each site read, the layout of states, and those after step ``done``."""
    configs, mesh, d_sae = plan.configs, plan.mesh, plan.d_sae
    first = configs[0]
    step_inputs, init = load_inputs(first, plan.cache, mesh, d_sae)
    shapes = jax.eval_shape(state_init(first, d_sae), init)
    layout = Layout(shapes, rounds_of(configs, mesh.shape[MEMBER]), mesh)
    make = state_maker(first, d_sae, mesh, init)
    inputs, init_of = {first.data.input_site: step_inputs}, {first.data.input_site: init}

    def state_of(run: int) -> TrainState:
        """Made or read when there is room for it; runs of a site come one after another."""
        config = configs[run]
        site = config.data.input_site
        if site not in init_of:
            init_of.clear()
            inputs[site], init_of[site] = load_inputs(config, plan.cache, mesh, d_sae)
        if done:
            return runs[run].checkpoints.restore(done, layout.single)
        key = seed_key(config.run.seed, mesh)
        rate, pre_bias = replicate(mesh, of_run(config, d_sae))
        start = init_of[site]._replace(key=key, firing_rate=rate, pre_bias=pre_bias)
        return cast(TrainState, make(start))

    return inputs, layout, layout.gather(state_of)


def _warn_of_rates(plan: Plan, inputs: Inputs) -> None:
    """Print where a learning rate is large for the rows of a site."""
    for site, read in inputs.items():
        deviation = math.sqrt(float(read.variance) / read.mean.shape[0])
        configs = [config for config in plan.configs if config.data.input_site == site]
        if warning := rate_warning(configs, plan.d_sae, deviation):
            print_once(warning)


def _start_logs(
    plan: Plan,
    runs: Sequence[OpenRun],
    inputs: Inputs,
    done: int,
    resources: contextlib.ExitStack,
) -> list[Log]:
    """The logs of runs, cut to step ``done``, open until ``resources`` is closed."""
    for run in runs:
        run.dir.cut_metrics(done)
        with raise_on_all():  # a full disk on one host ends all
            run.events.train(done)
    cache, mesh = plan.cache, plan.mesh
    with raise_on_all():
        probes = [make_probe(c, cache, mesh, inputs[c.data.input_site]) for c in plan.configs]
    logs = []
    for run, probe in zip(runs, probes, strict=True):
        name = str(run.dir.path) if len(runs) > 1 else ""
        log = Log(run.dir, run.config, done, name=name, probe=probe)
        logs.append(resources.enter_context(contextlib.closing(log)))
    return logs


def _batches_on_mesh(
    plan: Plan, host_batches: Prefetch[tuple[int, list[HostBatch]]], stop: StopOnAll, done: int
) -> Iterator[tuple[int, Batches]]:
    """Batches numbered from ``done`` + 1, each sent to the mesh one step ahead of its own.

    This process has read its part of each. They end early where a signal comes in the wait for one.
    """
    sites = sites_of(plan.configs)

    def send_next() -> Batches | None:
        while not host_batches.wait(_POLL):
            if stop.requested:
                return None
        _, hosts = next(host_batches)
        return {
            site: Batch(*rows_on_mesh(plan.mesh, (host.x, np.asarray(host.keep))))
            for site, host in zip(sites, hosts, strict=True)
        }

    ahead, steps = send_next(), plan.run.steps
    for number in range(done + 1, steps + 1):
        if (batch := ahead) is None:
            return
        ahead = send_next() if number < steps else None
        yield number, batch


def _report_staleness(
    finished: Sequence[tuple[Config, Log, TrainState]], inputs: Inputs, mesh: Mesh
) -> None:
    """Compare cached anchors with a full search, in each run's log; nothing without a pull."""
    compare = jax.jit(lambda rows, *rest: sharded_staleness(mesh, rows.shape[0])(rows, *rest))
    for config, log, state in finished:
        if state.anchor is not None:
            rows = pulled_rows(state.params, config.anchor)
            anchors = inputs[config.data.input_site].anchors
            log.report_staleness(compare(rows, anchors, state.anchor))


def _announcement(plan: Plan) -> str:
    """What is trained and how."""
    config, count, shape = plan.configs[0], len(plan.configs), plan.mesh.shape
    runs = f"{config.sae.method} SAE"
    if count > 1:
        runs = f"a pack of {count} {runs}s, {shape[MEMBER]} at a time,"
    sites = ", ".join(map(str, sites_of(plan.configs)))
    ks = ", ".join(map(str, sorted({each.sae.k for each in plan.configs})))
    return (
        f"{runs} on {sites} of {plan.cache.manifest.model.id}: {plan.d_sae} features, "
        f"k {ks}, {config.run.steps} steps of {config.data.batch} rows, {plan.execution} "
        f"execution in {config.sae.compute_dtype}"
        f"{' screened in bfloat16' if config.sae.screen == 'on' else ''}, "
        f"mesh {' '.join(f'{axis}={size}' for axis, size in shape.items())} "
        f"on {jax.default_backend()}"
    )
