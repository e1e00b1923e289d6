"""How well rows are reconstructed by their position in the window."""

from typing import NamedTuple

import numpy as np


class ByPosition(NamedTuple):
    """Sums over the unmasked rows at each position, float64 [T] (or [T, d])."""

    rows: np.ndarray
    error: np.ndarray
    """sum of |x - x_hat|^2"""
    square: np.ndarray
    """sum of |x|^2"""
    total: np.ndarray
    """[T, d], sum of x"""

    @classmethod
    def zeros(cls, length: int, width: int) -> "ByPosition":
        """No rows yet."""
        rows, error, square = np.zeros((3, length))
        return cls(rows, error, square, np.zeros((length, width)))

    def add(self, position: np.ndarray, x: np.ndarray, error: np.ndarray) -> None:
        """Add rows ``x`` [n, d] at ``position`` [n] with their squared ``error`` [n]."""
        length, wide = len(self.rows), x.astype(np.float64)
        self.rows[:] += np.bincount(position, minlength=length)
        self.error[:] += np.bincount(position, error.astype(np.float64), length)
        self.square[:] += np.bincount(position, np.square(wide).sum(axis=1), length)
        np.add.at(self.total, position, wide)

    def fvu(self) -> np.ndarray:
        """[T], squared error over squared distance to the mean of all rows; nan without rows."""
        mean = self.total.sum(axis=0) / max(self.rows.sum(), 1)
        spread = self.square - 2 * self.total @ mean + self.rows * float(mean @ mean)
        some = (self.rows > 0) & (spread > 0)
        fvu: np.ndarray = np.divide(
            self.error, spread, out=np.full(len(spread), np.nan), where=some
        )
        return fvu
