"""Runs that diverge: their loss or weights are not finite, or explode while they are finite.

A state that is judged bad is not saved, so the last checkpoint is of a step that was good. How a
run of a pack ended while the others went on is kept beside its checkpoints, in ended.json.
"""

import math
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
from vasae_jax.utils.read_json import read_json_object
from vasae_jax.utils.typed import check_fields

ENDED = "ended.json"
DIVERGED = "diverged"
MAX_GROWTH_FVU = 10.0
"""The fvu, in units of the best so far or of 1 if that is more, at which the loss has exploded."""
MAX_GROWTH_WEIGHTS = 100.0
"""Root mean square of the weights, in units of the last checkpoint's, at which they have."""
MAX_FVU, MAX_LINES = 10.0, 3
"""A run of a pack has diverged once its fvu was above this on so many logged steps in a row."""
HELP = "a lower --optim.lr or a longer --optim.warmup may help"


_OLD_NAMES = {"how": "status", "why": "reason"}


@dataclass(frozen=True)
class EarlyEnd:
    """How a run of a pack ended while the others went on."""

    status: str
    """DIVERGED."""
    step: int
    """The step after which it was seen."""
    reason: str
    """In words."""


def write_early_end(run: Path, end: EarlyEnd) -> None:
    """Write ended.json, from the first process; the last checkpoint is the run's last state."""
    if is_first():
        write_json(run / ENDED, asdict(end))


def read_early_end(run: Path) -> EarlyEnd | None:
    """How a run ended before its last step, or None.

    Raises:
        UserError: the file is not what was written.
    """
    file = run / ENDED
    if not file.exists():
        return None
    record = read_json_object(file, "how a run ended")
    try:
        end = EarlyEnd(**{_OLD_NAMES.get(name, name): value for name, value in record.items()})
    except TypeError as error:
        raise UserError(f"{file} is damaged ({error}); expected what vasae wrote") from error
    check_fields(end, file)
    return end


class Diverged(UserError):
    """A run has diverged; a pack leaves it behind."""


class LossCheck:
    """Judges the loss of a run whose lowest logged fvu is ``best``, infinite if none is."""

    def __init__(self, best: float) -> None:
        self._best = best

    def check(self, step: int, loss: float, fvu: float) -> None:
        """Judge the loss and the fraction of variance unexplained of one step.

        Raises:
            Diverged: one of them is not finite, or the loss has exploded.
        """
        for name, value in (("loss", loss), ("fvu", fvu)):
            if not math.isfinite(value):
                raise Diverged(
                    f"the {name} is {value} at step {step}; expected a finite number ({HELP})"
                )
        if fvu > MAX_GROWTH_FVU * max(1.0, self._best):
            raise Diverged(
                f"the loss has exploded: the fvu is {fvu:.3g} at step {step} and was "
                f"{self._best:.3g} at best; expected less than {MAX_GROWTH_FVU:g} times that, or "
                f"than {MAX_GROWTH_FVU:g} ({HELP}); the checkpoints before it are kept"
            )
        self._best = min(self._best, fvu)


class WeightCheck:
    """Judges what is to be saved, against what was saved before, while it is being written."""

    def __init__(self) -> None:
        self._step, self._before = 0, math.inf
        self._pending: tuple[int, jax.Array, jax.Array] | None = None

    def begin(self, step: int, params: Params) -> None:
        """``params`` are those of the checkpoint that a run goes on from."""
        self._step, self._before = step, float(_size(params))

    def measure(self, step: int, params: Params, moments: Any) -> None:
        """Begin to measure the state after ``step`` on the device, without waiting for it."""
        self._pending = step, _all_finite((params, moments)), _size(params)

    def judge(self) -> None:
        """Judge the state that was measured last; may be called from any thread, and again.

        Raises:
            Diverged: it is not finite, or its weights are MAX_GROWTH_WEIGHTS times those of the
                checkpoint before.
        """
        if self._pending is None:
            return
        step, finite, size = self._pending[0], bool(self._pending[1]), float(self._pending[2])
        if not finite:
            raise Diverged(
                f"the state after step {step} is not finite and is not saved; expected finite "
                f"numbers ({HELP})"
            )
        if size > MAX_GROWTH_WEIGHTS * self._before:
            raise Diverged(
                f"the weights after step {step} have exploded and are not saved: they are "
                f"{size / self._before:,.0f} times as large as after step {self._step}; expected "
                f"less than {MAX_GROWTH_WEIGHTS:g} times ({HELP})"
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


class FvuWatch:
    """Judges runs of a pack by their fvu on logged steps in a row."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}

    def check(self, run: int, metrics: Metrics) -> None:
        """Judge the logged ``metrics`` of a run.

        Raises:
            Diverged: its fvu was above MAX_FVU on each of the last MAX_LINES logged steps.
        """
        above = self._above.get(run, 0) + 1 if metrics.fvu > MAX_FVU else 0
        self._above[run] = above
        if above >= MAX_LINES:
            raise Diverged(
                f"the fvu is {float(metrics.fvu):.3g}; expected at most {MAX_FVU:g} on one "
                f"of {above} logged steps in a row"
            )
