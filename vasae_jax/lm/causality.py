"""Proof by trial that a model attends to no later token, as padding on the right requires."""

from collections.abc import Callable
from typing import Any

import numpy as np

from vasae_jax.utils.errors import UserError

TOLERANCE = 1e-4
"""Of the largest value: the same program ran twice, so only its order of summing may differ."""


def check_causal(
    residuals: Callable[[np.ndarray], Any], tokens: np.ndarray, vocab_size: int, model: str
) -> Any:
    """The rows of ``tokens``, after a check that later tokens do not change them.

    The second half of every window is replaced, and the first window's rows before it compared.

    Args:
        residuals: from tokens [S, T] to rows [layers, S, T, d_model].
        tokens: integers [S, T]; fewer than 2 positions are not checked.
        vocab_size: token ids are below it.
        model: named in the error.

    Raises:
        UserError: the model is not causal.
    """
    half = tokens.shape[1] // 2
    if not half or vocab_size < 2:
        return residuals(tokens)
    changed = np.array(tokens)
    changed[:, half:] = (changed[:, half:] + 1) % vocab_size
    # One window of the changed batch is kept, so that two batches of rows are never held at once.
    other = residuals(changed)[:, :1, :half]
    rows = residuals(tokens)
    first = rows[:, :1, :half]
    moved, length = (float(abs(part).max()) for part in (first - other, first))
    if moved > TOLERANCE * length:
        raise UserError(
            f"{model} attends to later tokens: changing them moves earlier rows by {moved:.3g} "
            f"(largest value {length:.3g}); expected a causal model"
        )
    return rows
