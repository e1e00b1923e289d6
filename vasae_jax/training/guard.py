"""A run that goes wrong: its loss or its weights are not finite, or explode while they are.

What is judged bad is not saved, so the last checkpoint is of a step that was good.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from vasae_jax.sae import Params
from vasae_jax.system.errors import UserError

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
