"""The runs of a pack while they train: what each logs and saves, and which have ended."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vasae_jax.config import Config
from vasae_jax.devices.distributed import said_by_first
from vasae_jax.stream import LayersStream
from vasae_jax.training.checkpoint import Checkpoints
from vasae_jax.training.ended import DIVERGED, STOPPED, Ended, read_ended, write_ended
from vasae_jax.training.events import Events
from vasae_jax.training.guard import Diverged
from vasae_jax.training.log import Log, say
from vasae_jax.training.pack.line import PackLine
from vasae_jax.training.pack.rules import Halving, Rules, Watch
from vasae_jax.training.pack.state import Layout, PackState
from vasae_jax.training.pack.step import PackMetrics, PackStep
from vasae_jax.training.rundir import METRICS, RunDir


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

        return bool(said_by_first(found))

    def _behind(self, halving: Halving, number: int) -> list[int]:
        def found() -> str:
            by_layer: dict[int, dict[int, float]] = {}
            for run in self.going:
                member = self._members[run]
                value = _measured(member.run.path, halving.measure, number)
                by_layer.setdefault(member.config.data.layer, {})[run] = value
            return json.dumps([run for own in by_layer.values() for run in halving.behind(own)])

        runs: list[int] = json.loads(said_by_first(found))
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
        say(
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
