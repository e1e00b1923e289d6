"""Rows that no model gives: not finite, or one number throughout."""

import threading

import numpy as np

from vasae_jax.system.errors import UserError

MOST = 0.01
"""Most unusable rows that are dropped, as a share of the rows read or of the split's."""


def unusable(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows of ``x`` [n, d] (float32 or bfloat16) are not finite, and which are constant.

    Returns:
        bool [n]: a number of the row is NaN or infinite.
        bool [n]: all its numbers are 0, or (with d > 1) one other.
    """
    # By their bits: NumPy compares integers several times as fast as bfloat16.
    whole = np.dtype(f"u{x.dtype.itemsize}")
    bits, infinity = x.view(whole), np.array(np.inf, x.dtype).view(whole)
    largest = (bits & whole.type(2 ** (8 * whole.itemsize - 1) - 1)).max(axis=1)
    constant = largest == 0
    if x.shape[1] > 1:
        maybe = np.flatnonzero(bits[:, 0] == bits[:, -1])  # few: the others need no second look
        constant[maybe] |= (bits[maybe] == bits[maybe, :1]).all(axis=1)
    return largest >= infinity, constant


class Tally:
    """Counts unusable rows among those read of an array, from any thread.

    Args:
        name: of the array, for the sentence.
        rows: that the array has.
    """

    def __init__(self, name: str, rows: int) -> None:
        self._name, self._rows = name, rows
        self._lock = threading.Lock()
        self._read = self._dropped = 0

    @property
    def dropped(self) -> int:
        """Unusable rows so far; a row that is read again counts again."""
        return self._dropped

    def add(self, read: int, dropped: int) -> None:
        """Count rows that were read.

        Raises:
            UserError: more than MOST of the rows are unusable.
        """
        with self._lock:
            self._read += read
            self._dropped += dropped
            found, most = self._dropped, MOST * max(self._read, self._rows)
        if found > most:
            raise UserError(
                f"{self._name} has {found:,} rows that are not finite or are one number "
                f"throughout, among {self._read:,} read; expected at most {MOST:.0%} of its rows "
                "(extract the cache again)"
            )
