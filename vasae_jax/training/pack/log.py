"""What the runs of a pack say: each its own lines and records, from one reading of all."""

from collections.abc import Sequence

from vasae_jax.stream import Stream
from vasae_jax.training.log import Log
from vasae_jax.training.pack.state import Layout
from vasae_jax.training.step import Metrics


class PackLog:
    """Notes the metrics of a pack's step and has each run's log report its own."""

    def __init__(self, logs: Sequence[Log], layout: Layout, stream: Stream) -> None:
        self._logs, self._layout, self._stream = logs, layout, stream
        self._noted: tuple[int, tuple[Metrics, ...]] | None = None

    def note(self, step: int, metrics: tuple[Metrics, ...]) -> None:
        """Keep ``metrics`` of step number ``step`` (counted from 1) until the next flush."""
        self._noted = step, metrics

    def flush(self) -> None:
        """Report what is noted, if anything is.

        Raises:
            UserError: the loss of a run is not finite, after all have reported.
        """
        if self._noted is None:
            return
        (step, metrics), self._noted = self._noted, None
        reading = self._stream.stats()
        for log, own in zip(self._logs, self._layout.read(metrics), strict=True):
            log.report(step, own, reading)

    def check(self, step: int, metrics: tuple[Metrics, ...]) -> None:
        """Raise UserError where the metrics of a run say that it has diverged."""
        for log, own in zip(self._logs, self._layout.read(metrics), strict=True):
            log.check(step, own)
