"""When a run of a pack ends before the others."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vasae_jax.system.errors import UserError
from vasae_jax.training.guard import Diverged
from vasae_jax.training.step import Metrics


@dataclass(frozen=True)
class Halving:
    """Successive halving (Jamieson and Talwalkar, AISTATS 2016), within a pack and a layer."""

    measure: str = "fvu"
    """Field of a run's metrics that says which are ahead: those with the least of it."""
    rungs: tuple[float, ...] = (0.25, 0.5)
    """Shares of the steps; each is taken at the first checkpoint from there on."""
    keep: float = 0.5
    """Share of the runs, rounded up, that goes on after a rung."""

    def check(self) -> None:
        """Raise UserError for what cannot be used."""
        if self.measure not in Metrics._fields:
            raise UserError(
                f"halving is by {self.measure!r}; expected one of {', '.join(Metrics._fields)}"
            )
        if not 0 < self.keep <= 1:
            raise UserError(f"halving keeps {self.keep}; expected a share above 0, up to 1")
        if not all(0 < rung < 1 for rung in self.rungs) or list(self.rungs) != sorted(self.rungs):
            raise UserError(
                f"halving has rungs {self.rungs}; expected rising shares between 0 and 1"
            )

    def behind(self, measured: Mapping[int, float]) -> list[int]:
        """The runs that stop, of those that are ``measured``; equal ones by number."""
        order = sorted(measured, key=lambda run: (measured[run], run))
        return sorted(order[math.ceil(self.keep * len(order)) :])


@dataclass(frozen=True)
class Rules:
    """When a run ends early: it is left at its last checkpoint, and the others go on.

    It has diverged by :mod:`vasae_jax.training.guard`, or once its fvu has been above ``fvu`` on
    ``lines`` logged steps in a row.
    """

    fvu: float = 10.0
    lines: int = 3
    halving: Halving | None = None


class Watch:
    """Judges runs by their fvu on logged steps in a row."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._above: dict[int, int] = {}

    def check(self, run: int, metrics: Metrics) -> None:
        """Judge the logged ``metrics`` of a run.

        Raises:
            Diverged: its fvu has been too large on too many lines.
        """
        above = self._above.get(run, 0) + 1 if metrics.fvu > self._rules.fvu else 0
        self._above[run] = above
        if above >= self._rules.lines:
            raise Diverged(
                f"the fvu is {float(metrics.fvu):.3g}; expected at most {self._rules.fvu:g} on one "
                f"of {above} logged steps in a row"
            )
