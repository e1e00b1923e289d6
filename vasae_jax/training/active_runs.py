"""The runs of a training loop: what each logs and saves, and which have ended early."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from vasae_jax.config import Config
from vasae_jax.stream.stream import Stream
from vasae_jax.training.checkpoint import Checkpoints
from vasae_jax.training.events import Events
from vasae_jax.training.log import Log, print_once, print_progress
from vasae_jax.training.pack import Layout, PackStep, RoundMetrics, States
from vasae_jax.training.run_dir import RunDir
from vasae_jax.training.status import DIVERGED, Diverged, EarlyEnd, FvuWatch, write_early_end


@dataclass(frozen=True)
class OpenRun:
    """A run with what it writes to."""

    config: Config
    dir: RunDir
    checkpoints: Checkpoints
    events: Events


class ActiveRuns:
    """Logs the metrics of steps, saves states, and ends the runs that diverge.

    Args:
        runs: all of them. logs: of each.
        step: of the runs. layout: of their states. stream: of their rows.
        leave_diverged: leave a run that diverges at its last checkpoint and go on with the others;
            without it the error that says so is raised.
    """

    def __init__(
        self,
        runs: Sequence[OpenRun],
        logs: Sequence[Log],
        step: PackStep,
        layout: Layout,
        stream: Stream,
        *,
        leave_diverged: bool,
    ) -> None:
        self._runs, self._logs = runs, logs
        self._step, self._layout, self._stream = step, layout, stream
        self._watch = FvuWatch() if leave_diverged else None
        self._noted: tuple[int, RoundMetrics] | None = None
        self.numbers = list(range(len(runs)))
        """Numbers of the runs that have not ended."""

    def note(self, step: int, metrics: RoundMetrics, states: States) -> None:
        """Keep ``metrics`` of a step until the next flush, and probe the features after it."""
        self._noted = step, metrics
        for run in self.numbers:
            self._logs[run].probe(step, partial(self._layout.take, states, run))

    def flush(self) -> None:
        """Log what is noted, if anything is.

        Raises:
            UserError: a run has diverged, unless the others are to go on; or the disk is full.
        """
        if self._noted is None:
            return
        (step, noted), self._noted = self._noted, None
        reading, metrics = self._stream.stats(), self._layout.read(noted)
        records = {}

        def report(run: int) -> None:
            if self._watch:
                self._watch.check(run, metrics[run])
            records[run] = self._logs[run].report(step, metrics[run], reading)

        self._each(step, report)
        lines = [records[run] for run in self.numbers]
        print_progress(lines, len(self._runs), self._runs[0].config)

    def save(self, step: int, metrics: RoundMetrics, states: States) -> None:
        """Keep the states after a step of the runs that have not diverged.

        Raises:
            UserError: as :meth:`flush` does.
        """
        self.flush()
        at_step = self._layout.read(metrics)
        self._each(step, lambda run: self._logs[run].check(step, at_step[run]))
        self._each(
            step,
            lambda run: self._runs[run].checkpoints.save(step, self._layout.take(states, run)),
        )
        if self._watch:  # states are judged while they are written
            self._each(step, lambda run: self._runs[run].checkpoints.latest())

    def _each(self, step: int, work: Callable[[int], object]) -> None:
        """Call ``work`` for every run that has not ended, and end those that have diverged."""
        for run in list(self.numbers):
            try:
                work(run)
            except Diverged as error:
                if self._watch is None:
                    raise
                self._end(run, EarlyEnd(DIVERGED, step, str(error)))

    def _end(self, number: int, end: EarlyEnd) -> None:
        """Leave a run at its last checkpoint, and let the others go on."""
        run = self._runs[number]
        self.numbers.remove(number)
        self._step.end(number)
        last = run.checkpoints.latest() or 0
        run.dir.cut_metrics(last)
        write_early_end(run.dir.path, end)
        run.events.end_reason = f"{end.status} at step {end.step}: {end.reason}"
        print_once(
            f"{run.dir.path} has {end.status} at step {end.step} ({end.reason}); it is left "
            f"at step {last}, and {len(self.numbers)} runs go on"
        )
