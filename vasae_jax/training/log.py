"""The log of a run: a line on stderr, a record in metrics.jsonl, boards."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from vasae_jax.anchor.certificate import Staleness
from vasae_jax.config import Config
from vasae_jax.distributed.hosts import is_first
from vasae_jax.stream.stream import ReadStats
from vasae_jax.training.boards import open_boards
from vasae_jax.training.hparams import first_pulled_step
from vasae_jax.training.probe import FeatureStats, Probe, histograms
from vasae_jax.training.run_dir import RunDir
from vasae_jax.training.state import TrainState, uses_certificate
from vasae_jax.training.status import LossCheck
from vasae_jax.training.step import DEAD_STEPS, Metrics
from vasae_jax.utils.progress import duration
from vasae_jax.utils.shown import shown
from vasae_jax.utils.streams import note


class Log:
    """Writes the metrics of single steps; rates are over the steps since the last record."""

    def __init__(
        self, run: RunDir, config: Config, start: int, *, name: str = "", probe: Probe | None = None
    ) -> None:
        """Of a run that goes on after step ``start``.

        Args:
            run: its directory. config: of the run.
            start: steps already taken.
            name: begins lines on stderr where there are several runs.
            probe: looks at the features of a state.
        """
        self._name = f"{name}: " if name else ""
        self._loss = LossCheck(run.best_fvu())
        self._probe = probe
        self._seen: FeatureStats | None = None
        self._run, self._steps, self._batch = run, config.run.steps, config.data.batch
        self._at, self._since = start, time.monotonic()
        self._boards = open_boards(run, config)

    def probe(self, step: int, state: Callable[[], TrainState]) -> None:
        """Begin to look at the features of the state after ``step``, for its report."""
        self._seen = self._probe(step, state()) if self._probe else None

    def check(self, step: int, metrics: Metrics) -> None:
        """Judge the metrics of one step.

        Raises:
            Diverged: the loss is not finite or has exploded.
        """
        self._loss.check(step, float(metrics.loss), float(metrics.fvu))

    def report(self, step: int, metrics: Metrics, reading: ReadStats) -> dict[str, Any]:
        """Write the metrics of one step, which are on the host; returns the record.

        Raises:
            Diverged: the loss is not finite or has exploded.
            UserError: the disk is full or not writable.
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
        distributions = histograms(jax.device_get(self._seen)) if self._seen else {}
        self._seen = None
        for board in self._boards:
            board.add(step, record, distributions)
        return record

    def report_staleness(self, staleness: Staleness) -> None:
        """Write, after the last step, how far the cached nearest anchors are from a full search."""
        values = {name: float(value) for name, value in staleness._asdict().items()}
        self._run.log({"step": self._steps, **values})
        for board in self._boards:
            board.add(self._steps, values, {})
        print_once(
            f"{self._name}nearest anchors against a full search: {values['mismatch']:.2%} of the "
            f"features differ, mean cosine lost {values['shortfall']:.1e}"
        )

    def close(self) -> None:
        """Close the boards, which write what is pending."""
        for board in self._boards:
            board.close()


def print_once(line: str) -> None:
    """One line for the person who watches, on stderr, from the first process."""
    if is_first():
        note(shown(line))


def print_progress(records: Sequence[Mapping[str, Any]], runs: int, config: Config) -> None:
    """A line on a logged step.

    Args:
        records: of the runs that go on. runs: how many began. config: of the first.
    """
    if not records:
        return
    record, steps = records[0], config.run.steps
    rate = max(record["rows_per_s"], 1e-9)
    step, batch = record["step"], record["rows"] / record["step"]
    left = f"{duration((steps - step) * batch / rate)} left"
    if runs > 1:
        fvu = sorted(each["fvu"] for each in records)
        print_once(
            f"{len(records)} of {runs} runs: step {step}/{steps}  "
            f"fvu {fvu[0]:.4f} to {fvu[-1]:.4f}  {rate / batch:.2f} steps/s  "
            f"{rate * len(records):,.0f} tokens/s in all  {left}"
        )
        return
    dropped = record["dropped_rows"]
    print_once(
        f"step {step}/{steps}  fvu {record['fvu']:.4f}  l0 {record['l0']:.1f}  "
        f"{_pull(record, config)}dead {record['dead_fraction']:.1%}"
        f"{'' if step >= DEAD_STEPS else ' so far'}  {rate:,.0f} tokens/s  {left}"
        + (f"  {dropped:,} unusable rows dropped" if dropped else "")
    )


def _pull(record: Mapping[str, Any], config: Config) -> str:
    """What the line says of the pull: nothing before it starts, and in runs without one."""
    if config.sae.method != "soft" or record["step"] < first_pulled_step(config):
        return ""
    if not uses_certificate(config):
        return f"nearest cosine {record['mean_cosine']:.3f}  "
    return (
        f"nearest cosine {record['mean_cosine']:.3f} (at most {config.anchor.target_cosine:g})  "
        f"uncertified {record['uncertified']:.1%}  "
    )
