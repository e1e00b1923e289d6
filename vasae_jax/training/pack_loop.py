"""The runs of a pack while they train: what each logs and saves, and which have ended."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.distributed.hosts import (
    StopOnAll,
    broadcast_from_first,
    check_same_on_all,
    raise_on_all,
)
from vasae_jax.distributed.mesh import MEMBER, MODEL, replicate, seed_key
from vasae_jax.sae import choose_execution
from vasae_jax.sites import Site
from vasae_jax.stream import Batch as HostBatch
from vasae_jax.stream import LayersStream
from vasae_jax.training.autotune import autotuned
from vasae_jax.training.checkpoint import Checkpoints, step_to_resume
from vasae_jax.training.checks import check_cache, check_pack, check_settings
from vasae_jax.training.events import Events
from vasae_jax.training.log import Log, PackLine, print_once
from vasae_jax.training.loop import (
    Hooks,
    T,
    advance,
    checked,
    compare_anchors,
    kept_checkpoints,
    on_device,
    prepare,
    send,
    shuffle_of,
    until_asked,
)
from vasae_jax.training.loss import Batch, Context
from vasae_jax.training.pack import Layout, PackMetrics, PackState, PackStep, rounds_of, widest
from vasae_jax.training.probe import Probe, make_probe
from vasae_jax.training.run_dir import METRICS, RunDir, own_runs
from vasae_jax.training.state import Start, TrainState, state_init, state_maker
from vasae_jax.training.status import (
    DIVERGED,
    STOPPED,
    Diverged,
    Ended,
    Halving,
    Rules,
    Watch,
    read_ended,
    write_ended,
)
from vasae_jax.utils.errors import UserError


@dataclass(frozen=True)
class Member:
    """One run of a pack, with what it writes to."""

    config: Config
    run: RunDir
    kept: Checkpoints
    events: Events
    log: Log


class Members:
    """Notes the metrics of a pack's steps, saves its runs, and ends those that must end."""

    def __init__(
        self,
        members: Sequence[Member],
        step: PackStep,
        layout: Layout,
        stream: LayersStream,
        rules: Rules,
    ) -> None:
        self._members, self._step, self._layout, self._stream = members, step, layout, stream
        self._rules, self._watch = rules, Watch(rules)
        self._noted: tuple[int, PackMetrics] | None = None
        self.going = list(range(len(members)))
        """Numbers of the runs that have not ended."""
        self._line = PackLine(members[0].config, len(members))

    def start(self, done: int) -> None:
        """Go on after step ``done``."""
        self._line.start(done)
        self._halve(done)

    def note(self, step: int, metrics: PackMetrics, pack: PackState) -> None:
        """Keep ``metrics`` of step number ``step`` (counted from 1) until the next flush."""
        self._noted = step, metrics
        for run in self.going:
            self._members[run].log.look(step, partial(self._layout.take, pack, run))

    def flush(self) -> None:
        """Report what is noted, if anything is, and end the runs that have diverged."""
        if self._noted is None:
            return
        (step, metrics), self._noted = self._noted, None
        reading, found = self._stream.stats(), self._layout.read(metrics)
        for run in list(self.going):
            with self._left_if_diverged(run, step):
                self._watch.check(run, found[run])
                self._members[run].log.report(step, found[run], reading)
        self._line.show(step, [found[run] for run in self.going])

    def check(self, step: int, metrics: PackMetrics) -> None:
        """End the runs whose metrics of a step to be saved say that they have diverged."""
        found = self._layout.read(metrics)
        for run in list(self.going):
            with self._left_if_diverged(run, step):
                self._members[run].log.check(step, found[run])

    def save(self, number: int, pack: PackState) -> None:
        """Keep the states after step ``number`` of the runs that go on.

        Raises:
            UserError: the disk is full or not writable.
        """
        for run in list(self.going):
            with self._left_if_diverged(run, number):
                self._members[run].kept.save(number, self._layout.take(pack, run))
        for run in list(self.going):  # states are judged while they are written
            with self._left_if_diverged(run, number):
                self._members[run].kept.latest()
        self._halve(number)

    def _halve(self, number: int) -> None:
        """At a rung, stop the runs that are behind others of their layer.

        Decided by what is on disk alone, so that a resumed pack decides as before.
        """
        halving, steps = self._rules.halving, self._members[0].config.run.steps
        if halving is None or number >= steps:
            return
        for rung in halving.rungs:
            at = rung * steps
            if at <= number and not self._decided(at):
                for run in self._behind(halving, number):
                    why = f"behind in {halving.measure} at {rung:.0%} of the steps"
                    self._end(run, Ended(STOPPED, number, why))

    def _decided(self, at: float) -> bool:
        """Whether a run was stopped at step ``at`` or later."""

        def found() -> str:
            ended = (read_ended(member.run.path) for member in self._members)
            return "yes" * any(one and one.how == STOPPED and one.step >= at for one in ended)

        return bool(broadcast_from_first(found))

    def _behind(self, halving: Halving, number: int) -> list[int]:
        def found() -> str:
            by_layer: dict[Site, dict[int, float]] = {}
            for run in self.going:
                member = self._members[run]
                value = _measured(member.run.path, halving.measure, number)
                by_layer.setdefault(member.config.data.input_site, {})[run] = value
            return json.dumps([run for own in by_layer.values() for run in halving.behind(own)])

        runs: list[int] = json.loads(broadcast_from_first(found))
        return runs

    @contextlib.contextmanager
    def _left_if_diverged(self, run: int, step: int) -> Iterator[None]:
        try:
            yield
        except Diverged as error:
            self._end(run, Ended(DIVERGED, step, str(error)))

    def _end(self, run: int, ended: Ended) -> None:
        """Leave a run at its last checkpoint, and let the others go on."""
        member = self._members[run]
        self.going.remove(run)
        self._step.end(run)
        left = member.kept.latest() or 0
        member.run.cut_metrics(left)
        write_ended(member.run.path, ended)
        member.events.left = f"{ended.how} at step {ended.step}: {ended.why}"
        print_once(
            f"{member.run.path} has {ended.how} at step {ended.step} ({ended.why}); it is left "
            f"at step {left}, and {len(self.going)} runs go on"
        )


def _measured(run: Path, measure: str, number: int) -> float:
    """The last logged value of a measure up to step ``number``; infinite where there is none."""
    value = float("inf")
    with contextlib.suppress(FileNotFoundError):
        for line in (run / METRICS).read_text().splitlines():
            record = json.loads(line)
            if record["step"] <= number and measure in record:
                value = float(record[measure])
    return value


# Training a pack: the loop of a single run, with a directory for each of its runs.


def train_pack(configs: Sequence[Config]) -> list[Path]:
    """Train, or resume, runs that differ in settings FREE alone; returns their directories.

    Each directory is what the run alone would leave: it may be resumed alone, or in another
    pack.

    Raises:
        UserError: as :func:`run_pack` does, or a run diverged; the others have gone on.
        Stopped: SIGINT or SIGTERM asked for it; a checkpoint of each run's last step is kept.
    """
    paths = run_pack(configs, Rules())
    diverged = [path for path in paths if (found := read_ended(path)) and found.how == DIVERGED]
    if diverged:
        raise UserError(
            f"{', '.join(map(str, diverged))} diverged and were left at their last checkpoints; "
            "expected finite numbers (a lower --optim.lr or a longer --optim.warmup may help)"
        )
    return paths


def run_pack(configs: Sequence[Config], rules: Rules) -> list[Path]:
    """Train, or resume, the runs of a pack; those that have ended before their last step stay so.

    Raises:
        UserError: a run alone would be refused, they cannot train together, or they stand at
            different steps.
        Stopped: SIGINT or SIGTERM asked for it; a checkpoint of each run's last step is kept.
    """
    paths = [Path(config.run.out) for config in configs]
    configs = _not_ended(configs)
    if not configs:
        return paths
    cache, mesh, d_sae, stream = raise_on_all(lambda: _checked(configs))
    check_same_on_all(configs, cache.digest)
    first = autotuned(configs[0], mesh, (d_sae, cache.manifest.d_model))
    configs = [replace(one, sae=replace(one.sae, screen=first.sae.screen)) for one in configs]
    with contextlib.ExitStack() as held:
        runs = raise_on_all(lambda: own_runs(configs, cache, held))
        events = raise_on_all(lambda: [held.enter_context(Events(c, cache, mesh)) for c in configs])
        kept = [held.enter_context(kept_checkpoints(config)) for config in configs]
        done = step_to_resume(kept, skip_damaged=first.run.skip_damaged)
        if done >= first.run.steps:
            print_once(f"all {len(runs)} runs of the pack are complete: {done} steps")
            return paths
        execution = choose_execution(first.sae.execution, jax.default_backend())
        _announce(configs, cache, mesh, d_sae, execution)
        if done:
            print_once(f"resuming the pack after step {done}")
        contexts, layout, pack = _begin(configs, cache, mesh, d_sae, kept, done)
        for run, told in zip(runs, events, strict=True):
            run.cut_metrics(done)
            raise_on_all(partial(told.train, done))
        step = PackStep(configs, mesh, layout, execution)
        looks = raise_on_all(lambda: _looks(configs, cache, mesh, contexts))
        logs = [_log(*one, done) for one in zip(configs, runs, looks, strict=True)]
        for log in logs:
            held.enter_context(contextlib.closing(log))
        opened = [Member(*one) for one in zip(configs, runs, kept, events, logs, strict=True)]
        stop = held.enter_context(StopOnAll())
        batches = until_asked(held.enter_context(stream.prefetch(done)), stop)
        members = Members(opened, step, layout, stream, rules)
        members.start(done)
        rows = on_device(batches, _Sender(configs, mesh), done, first.run.steps)
        hooks = Hooks(members, members.save, stop)
        pack = advance(first.run, _while_any(rows, members), step.at, pack, contexts, hooks)
        for number in members.going:
            config, found = configs[number], [(layout.take(pack, number), logs[number])]
            compare_anchors(config, found, contexts[config.data.input_site], mesh)
    return paths


def layers_of(configs: Sequence[Config]) -> list[Site]:
    """The sites of a pack's runs, in the order in which they come first."""
    return list(dict.fromkeys(config.data.input_site for config in configs))


def _not_ended(configs: Sequence[Config]) -> list[Config]:
    """The runs that have not ended before their last step, as the first process sees it."""
    going = []
    for config in configs:
        path = Path(config.run.out)
        found = broadcast_from_first(lambda path=path: _ended_words(path))  # type: ignore[misc]
        if found and not config.run.overwrite:
            print_once(f"{path} {found} and is left as it is")
        else:
            going.append(config)
    return going


def _ended_words(path: Path) -> str:
    found = read_ended(path)
    return f"has {found.how} at step {found.step}" if found else ""


def _checked(configs: Sequence[Config]) -> tuple[Cache, Mesh, int, LayersStream]:
    """What the pack needs before it writes, or the UserError that stands against it."""
    for config in configs:
        check_settings(config)
    cache, mesh, d_sae = checked(widest(configs))
    for config in configs:
        check_cache(config, cache)
    check_pack(configs, d_sae // mesh.shape[MODEL], jax.default_backend())
    data = configs[0].data
    stream = LayersStream(
        cache,
        layers_of(configs),
        "train",
        data.mask,
        shuffle_of(configs[0]),
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    return cache, mesh, d_sae, stream


def _announce(
    configs: Sequence[Config], cache: Cache, mesh: Mesh, d_sae: int, execution: str
) -> None:
    first, axes = configs[0], " ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
    ks = ", ".join(map(str, sorted({config.sae.k for config in configs})))
    layers = ", ".join(map(str, layers_of(configs)))
    print_once(
        f"a pack of {len(configs)} {first.sae.method} SAEs, {mesh.shape[MEMBER]} at a time, on "
        f"{layers} of {cache.manifest.model.id}: {d_sae} features, k {ks}, "
        f"{first.run.steps} steps of {first.data.batch} rows, {execution} execution in "
        f"{first.sae.compute_dtype}, mesh {axes} on {jax.default_backend()}"
    )


def _begin(
    configs: Sequence[Config],
    cache: Cache,
    mesh: Mesh,
    d_sae: int,
    kept: Sequence[Checkpoints],
    done: int,
) -> tuple[dict[Site, Context], Layout, PackState]:
    """What the steps on each layer read, how the pack lies, and its state after step ``done``."""
    contexts, start = _prepared(configs[0], cache, mesh)
    shapes = jax.eval_shape(state_init(configs[0], d_sae), start)
    layout = Layout(shapes, rounds_of(configs, mesh.shape[MEMBER]), mesh)
    make = state_maker(configs[0], d_sae, mesh, start)
    started = {configs[0].data.input_site: start}

    def state_of(run: int) -> TrainState:
        """Made or read when the pack has room for it; runs of a layer come one after another."""
        config = configs[run]
        layer = config.data.input_site
        if layer not in started:
            started.clear()
            own, started[layer] = _prepared(config, cache, mesh)
            contexts.update(own)
        if done:
            return kept[run].restore(done, layout.single)
        rate = replicate(mesh, np.float32(config.sae.k / d_sae))
        key = seed_key(config.run.seed, mesh)
        state: TrainState = make(started[layer]._replace(key=key, rate=rate))
        return state

    pack = layout.gather(state_of)
    return contexts, layout, pack


def _prepared(config: Config, cache: Cache, mesh: Mesh) -> tuple[dict[Site, Context], Start]:
    context, start = prepare(config, cache, mesh)
    return {config.data.input_site: context}, start


def _looks(
    configs: Sequence[Config], cache: Cache, mesh: Mesh, contexts: Mapping[Site, Context]
) -> list[Probe | None]:
    return [make_probe(config, cache, mesh, contexts[config.data.input_site]) for config in configs]


def _log(config: Config, run: RunDir, probe: Probe | None, done: int) -> Log:
    return Log(run, config, done, name=str(run.path), probe=probe)


class _Sender:
    """Sends the batches of a pack's layers to the mesh."""

    def __init__(self, configs: Sequence[Config], mesh: Mesh) -> None:
        self._layers, self._mesh = layers_of(configs), mesh

    def __call__(self, hosts: Sequence[HostBatch]) -> Mapping[Site, Batch]:
        return {
            layer: send(self._mesh, host) for layer, host in zip(self._layers, hosts, strict=True)
        }


def _while_any(rows: Iterable[T], members: Members) -> Iterator[T]:
    """``rows`` for as long as any run goes on."""
    for row in rows:
        if not members.going:
            return
        yield row
