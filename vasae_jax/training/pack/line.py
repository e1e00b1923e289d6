"""The line for people of a pack: how far it is and how fast it goes."""

import time
from collections.abc import Sequence

from vasae_jax.config import Config
from vasae_jax.system.clock import duration
from vasae_jax.training.log import say
from vasae_jax.training.step import Metrics


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
        say(
            f"{len(found)} of {self._runs} runs: step {step}/{self._steps}  "
            f"fvu {fvu[0]:.4f} to {fvu[-1]:.4f}  {rate:.2f} steps/s  "
            f"{rate * self._batch * len(found):,.0f} tokens/s in all  "
            f"{duration((self._steps - step) / max(rate, 1e-9))} left"
        )
