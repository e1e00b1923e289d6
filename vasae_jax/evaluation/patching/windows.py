"""The token windows of a cache, put together again from its rows."""

from dataclasses import dataclass
from typing import Self

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.config import Mask
from vasae_jax.stream.source import Source
from vasae_jax.system.errors import UserError


@dataclass(frozen=True)
class Windows:
    """Some windows, right-padded with token 0.

    Attributes:
        tokens: int32 [S, T].
        real: bool [S, T], False for padding.
        keep: bool [S, T], False for padding and for masked rows.
    """

    tokens: np.ndarray
    real: np.ndarray
    keep: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """int32 [S, T], the next token of each position (0 where there is none)."""
        return np.pad(self.tokens[:, 1:], ((0, 0), (0, 1)))

    @property
    def scored(self) -> np.ndarray:
        """bool [S, T], positions whose next token lies in the window."""
        return np.pad(self.real[:, 1:], ((0, 0), (0, 1)))


class WindowTable:
    """Every window of a split, by its number in storage order."""

    def __init__(
        self, tokens: np.ndarray, positions: np.ndarray, keep: np.ndarray, length: int
    ) -> None:
        """Windows begin where ``positions`` [rows] is 0 and are at most ``length`` tokens long.

        Raises:
            UserError: the rows do not begin with a window, or one is longer.
        """
        self._tokens, self._keep, self._length = tokens, keep, length
        self._starts = np.flatnonzero(positions == 0)
        if not len(positions) or positions[0] != 0 or positions.max() >= length:
            raise UserError(
                f"the cache's positions are not those of windows of at most {length} tokens; "
                "expected each window to begin at position 0"
            )
        self._lengths = np.diff(np.append(self._starts, len(positions)))

    @classmethod
    def of(cls, cache: Cache, layer: int, split: str, mask: Mask) -> Self:
        """The windows of a split, rows of ``mask`` not kept.

        Raises:
            UserError: the cache lacks the layer or split, or a column is damaged.
        """
        rows = cache.rows(split)
        tokens, positions = (
            cache.column(name, split).read(0, rows) for name in ("tokens", "positions")
        )
        keep = Source(cache, layer, split, mask).keep()
        return cls(tokens, positions, keep, cache.manifest.context_length)

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self._starts)

    def sample(self, most: int) -> np.ndarray:
        """Numbers of at most ``most`` windows, evenly spaced from the first; int64 [n]."""
        count = min(most, len(self))
        return np.arange(count) * len(self) // max(count, 1)

    def locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The window of each of ``rows`` [n] of the split, and its position in it: int [n] each."""
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        return numbers, rows - self._starts[numbers]

    def take(self, numbers: np.ndarray, size: int) -> Windows:
        """Windows of these ``numbers`` [n], filled up to ``size`` with empty ones."""
        lengths = np.zeros(size, np.int64)
        lengths[: len(numbers)] = self._lengths[numbers]
        real = np.arange(self._length)[None, :] < lengths[:, None]
        tokens, keep = np.zeros(real.shape, np.int32), np.zeros(real.shape, np.bool_)
        for place, number in enumerate(numbers):
            part = slice(self._starts[number], self._starts[number] + self._lengths[number])
            tokens[place, : lengths[place]] = self._tokens[part]
            keep[place, : lengths[place]] = self._keep[part]
        return Windows(tokens, real, keep)
