"""Runs that ended before their last step, and why; kept beside their checkpoints."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vasae_jax.distributed.hosts import is_first
from vasae_jax.sae import Params
from vasae_jax.training.step import Metrics
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import write_json

ENDED = "ended.json"
DIVERGED, STOPPED = "diverged", "stopped"


@dataclass(frozen=True)
class Ended:
    """How a run of a pack ended while the others went on."""

    how: str
    """DIVERGED, or STOPPED where others were ahead of it."""
    step: int
    """The step after which it was seen."""
    why: str
    """In words."""


def write_ended(run: Path, ended: Ended) -> None:
    """Keep how ``run`` ended, from the first process; its last checkpoint is its last state."""
    if is_first():
        write_json(run / ENDED, asdict(ended))


def read_ended(run: Path) -> Ended | None:
    """How a run ended before its last step, or None.

    Raises:
        UserError: the file is not what was written.
    """
    file = run / ENDED
    try:
        return Ended(**json.loads(file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); expected what vasae wrote") from error


# A run that goes wrong: its loss or its weights are not finite, or explode while they are.
#
# What is judged bad is not saved, so the last checkpoint is of a step that was good.


WORSE = 10.0
"""The fvu, in units of the best so far or of 1 if that is more, at which the loss has exploded."""
GROWN = 100.0
"""Root mean square of the weights, in units of the last checkpoint's, at which they have."""
HELP = "a lower --optim.lr or a longer --optim.warmup may help"


class Diverged(UserError):
    """A run has gone wrong; a pack leaves it behind."""


class Loss:
    """Judges a run's loss.

    Args:
        name: begins the sentence, where there are several runs to tell apart.
        best: lowest fvu that the run has logged, infinite if none.
    """

    def __init__(self, name: str, best: float) -> None:
        self._name, self._best = name, best

    def check(self, step: int, loss: float, fvu: float) -> None:
        """Judge the loss and the fraction of variance unexplained of one step.

        Raises:
            Diverged: the loss is not finite or has exploded.
        """
        if not math.isfinite(loss):
            raise Diverged(
                f"{self._name}the loss is {loss} at step {step}; expected a finite number ({HELP})"
            )
        if fvu > WORSE * max(1.0, self._best):
            raise Diverged(
                f"{self._name}the loss has exploded: the fvu is {fvu:.3g} at step {step} and was "
                f"{self._best:.3g} at best; expected less than {WORSE:g} times that, or than "
                f"{WORSE:g} ({HELP}); the checkpoints before it are kept"
            )
        self._best = min(self._best, fvu)


class Growth:
    """Judges what is to be saved, against what was saved before, while it is being written."""

    def __init__(self) -> None:
        self._step, self._before = 0, math.inf
        self._asked: tuple[int, jax.Array, jax.Array] | None = None

    def begin(self, step: int, params: Params) -> None:
        """``params`` are those of the checkpoint that a run goes on from."""
        self._step, self._before = step, float(_size(params))

    def ask(self, step: int, params: Params, moments: Any) -> None:
        """Have the device look at the state after ``step``; it is not waited for."""
        self._asked = step, _all_finite((params, moments)), _size(params)

    def answer(self) -> None:
        """Judge what was asked about; may be called from any thread, and again.

        Raises:
            Diverged: it is not finite, or its weights are GROWN times those of the checkpoint
                before.
        """
        if self._asked is None:
            return
        step, finite, size = self._asked[0], bool(self._asked[1]), float(self._asked[2])
        if not finite:
            raise Diverged(
                f"the state after step {step} is not finite and is not saved; expected finite "
                f"numbers ({HELP})"
            )
        if size > GROWN * self._before:
            raise Diverged(
                f"the weights after step {step} have exploded and are not saved: they are "
                f"{size / self._before:,.0f} times as large as after step {self._step}; expected "
                f"less than {GROWN:g} times ({HELP})"
            )
        self._step, self._before = step, size


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    """Whether every number is finite, []: 0 times one that is not is NaN.

    On CPU such sums take a tenth of the time of ``isfinite`` and ``all``, which a save waits for.
    """
    return jnp.stack([jnp.sum(0 * leaf) == 0 for leaf in jax.tree.leaves(tree)]).all()


@jax.jit
def _size(params: Params) -> jax.Array:
    """Root mean square of the numbers of both matrices, []."""
    return jnp.sqrt(sum(jnp.mean(jnp.square(params[name])) for name in ("W_enc", "W_dec")))


# When a run of a pack ends before the others.


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
