"""What a run says while it goes: a line for people, a record for machines, boards."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from vasae_jax.anchor import Staleness
from vasae_jax.config import Config
from vasae_jax.distributed.hosts import is_first
from vasae_jax.stream import ReadStats, Stream
from vasae_jax.training.boards import open_boards
from vasae_jax.training.probe import FeatureStats, Probe, histograms
from vasae_jax.training.run_dir import RunDir
from vasae_jax.training.state import TrainState
from vasae_jax.training.status import Loss
from vasae_jax.training.step import Metrics
from vasae_jax.utils.progress import duration


class Log:
    """Writes metrics of single steps; the rate is over the steps since the last line.

    Reading a number waits for the device, so a step's metrics are noted at once and written
    by a later ``flush``.
    """

    def __init__(
        self,
        run: RunDir,
        config: Config,
        start: int,
        stream: Stream | None = None,
        *,
        name: str = "",
        probe: Probe | None = None,
    ) -> None:
        """Of a run that goes on after step ``start``; ``glance`` looks at its features.

        A run of a pack has a ``name`` and no stream of its own: it is told what its pack reads,
        and leaves lines for people on its steps to it.
        """
        self._stream, self._name = stream, f"{name}: " if name else ""
        self._loss = Loss("", run.best_fvu())  # of a pack's runs the pack says the name
        self._noted: tuple[int, Metrics] | None = None
        self._glance = probe
        self._seen: FeatureStats | None = None
        self._run, self._steps, self._batch = run, config.run.steps, config.data.batch
        self._at, self._since = start, time.monotonic()
        self._boards = open_boards(run, config)

    def note(self, step: int, metrics: Metrics, state: TrainState) -> None:
        """Keep ``metrics`` of step number ``step`` (counted from 1) until the next flush."""
        self._noted = step, metrics
        self.look(step, lambda: state)

    def look(self, step: int, state: Callable[[], TrainState]) -> None:
        """Begin to look at the features of the state after ``step``, for the next report."""
        self._seen = self._glance(step, state()) if self._glance else None

    def flush(self) -> None:
        """Report what is noted, if anything is; raises what ``report`` does."""
        if self._noted is None or self._stream is None:
            return
        (step, metrics), self._noted = self._noted, None
        self.report(step, jax.device_get(metrics), self._stream.stats())

    def check(self, step: int, metrics: Metrics) -> None:
        """Judge one step, such as one to be saved.

        Raises:
            UserError: the run has diverged.
        """
        self._loss.check(step, float(metrics.loss), float(metrics.fvu))

    def report(self, step: int, metrics: Metrics, reading: ReadStats) -> None:
        """Write the metrics of one step, which are on the host.

        Raises:
            UserError: the run has diverged.
        """
        self.check(step, metrics)
        values = {name: float(value) for name, value in metrics._asdict().items()}
        now = time.monotonic()
        rate = (step - self._at) * self._batch / max(now - self._since, 1e-9)
        self._at, self._since = step, now
        record = {
            "step": step,
            "rows": step * self._batch,
            **values,
            "rows_per_s": rate,
            "read_bytes_per_s": reading.bytes_per_second,
            "queued_batches": reading.queued,
            "document_bits": reading.document_bits,
            "dropped_rows": reading.dropped,
        }
        self._run.log(record)
        if not self._name:
            self._show(record)
        shown = histograms(jax.device_get(self._seen)) if self._seen else {}
        self._seen = None
        for board in self._boards:
            board.add(step, record, shown)

    def searched(self, found: Staleness) -> None:
        """Report, after the last step, how far the cached nearest anchors are from the truth."""
        values = {name: float(value) for name, value in found._asdict().items()}
        self._run.log({"step": self._steps, **values})
        for board in self._boards:
            board.add(self._steps, values, {})
        print_once(
            f"{self._name}nearest anchors against a full search: {values['mismatch']:.2%} of the "
            f"features differ, mean cosine lost {values['shortfall']:.1e}"
        )

    def close(self) -> None:
        """Flush what is pending."""
        for board in self._boards:
            board.close()

    def _show(self, record: dict[str, Any]) -> None:
        left = (self._steps - record["step"]) * self._batch / max(record["rows_per_s"], 1e-9)
        dropped = record["dropped_rows"]
        print_once(
            f"step {record['step']}/{self._steps}  "
            f"fvu {record['fvu']:.4f}  l0 {record['l0']:.1f}  "
            f"nearest cosine {record['mean_cosine']:.3f}  dead {record['dead_fraction']:.1%}  "
            f"uncertified {record['uncertified']:.1%}  {record['rows_per_s']:,.0f} tokens/s  "
            f"{duration(left)} left" + (f"  {dropped:,} unusable rows dropped" if dropped else "")
        )


def print_once(line: str) -> None:
    """One line for the person who watches, on stderr, from the first process."""
    if is_first():
        print(line, file=sys.stderr, flush=True)


# The line for people of a pack: how far it is and how fast it goes.


class PackLine:
    """Says how a pack of ``runs`` runs goes; rates are over the steps since the last line."""

    def __init__(self, config: Config, runs: int) -> None:
        self._steps, self._batch, self._runs = config.run.steps, config.data.batch, runs
        self.start(0)

    def start(self, done: int) -> None:
        """Begin the clock after step ``done``."""
        self._at, self._since = done, time.monotonic()

    def show(self, step: int, found: Sequence[Metrics]) -> None:
        """Say where the pack is, with the metrics of the runs that go on."""
        now = time.monotonic()
        rate = (step - self._at) / max(now - self._since, 1e-9)
        self._at, self._since = step, now
        if not found:
            return
        fvu = sorted(float(one.fvu) for one in found)
        print_once(
            f"{len(found)} of {self._runs} runs: step {step}/{self._steps}  "
            f"fvu {fvu[0]:.4f} to {fvu[-1]:.4f}  {rate:.2f} steps/s  "
            f"{rate * self._batch * len(found):,.0f} tokens/s in all  "
            f"{duration((self._steps - step) / max(rate, 1e-9))} left"
        )
