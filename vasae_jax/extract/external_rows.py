"""Rows of a language model as another program stored them, checked."""

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError

FLOAT32 = np.dtype(np.float32)
LARGEST = 2**31 - 2
"""Of tokens, positions and documents."""


@dataclass
class ExternalRows:
    """Rows of W windows of equal length T.

    Attributes:
        source: their place, for messages.
        shape: of the rows, [W, T, d].
        read: ``read(first, last)`` gives the rows of windows first to last (exclusive), float
            [n, T, d].
        tokens: int [W, T]; int32 once checked.
        docs: int [W] or [W, T], the document of each window or row; None: each window is one.
        mask: [W, T] of bool, or 0 and 1: False at padding; None: there is no padding.
        positions: int [W, T], of each row in the window that its model saw; None: to be counted.
        site: of the rows, where the source states it.
        dtype: of the rows, as they are read.
        expects_bos: the program puts a BOS before every window unless it is told not to.

    Raises:
        UserError: counts that do not agree, rows that are not real numbers, tokens, positions or
            documents that are not integers from 0 below 2**31 - 1, a mask that is not 0 and 1.
    """

    source: str
    shape: tuple[int, ...]
    read: Callable[[int, int], np.ndarray]
    tokens: np.ndarray
    docs: np.ndarray | None = None
    mask: np.ndarray | None = None
    positions: np.ndarray | None = None
    site: Site | None = None
    dtype: np.dtype = FLOAT32
    expects_bos: bool = False

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or 0 in self.shape:
            raise UserError(
                f"{self.source} has rows of shape {self.shape}; expected [windows, positions, "
                "width]"
            )
        if self.dtype.kind != "f" and self.dtype != ml_dtypes.bfloat16:
            raise UserError(
                f"{self.source} has rows of type {self.dtype}; expected floating-point numbers"
            )
        each = self.shape[:2]
        self._check_mask(each)
        self.tokens = self._integers("tokens", self.tokens, (each,))
        if self.positions is not None:
            self.positions = self._integers("positions", self.positions, (each,))
        if self.docs is not None:
            self.docs = self._integers("documents", self.docs, (each, each[:1]))

    def _check_mask(self, shape: tuple[int, ...]) -> None:
        mask = self.mask
        if mask is None:
            return
        if mask.shape != shape or mask.dtype.kind not in "bui" or not np.isin(mask, (0, 1)).all():
            raise UserError(
                f"{self.source} has a mask of shape {mask.shape} and type {mask.dtype}; expected "
                f"0 at padding and 1 at text in shape {shape}"
            )
        self.mask = np.asarray(mask, np.bool_)
        if not self.mask.any():
            raise UserError(f"{self.source} has a mask that is 0 throughout; expected some text")

    def _integers(
        self, name: str, array: np.ndarray, shapes: tuple[tuple[int, ...], ...]
    ) -> np.ndarray:
        """``array`` as int32, 0 at padding; UserError for others than integers in range."""
        if array.shape not in shapes or not np.issubdtype(array.dtype, np.integer):
            expected = " or ".join(map(str, shapes))
            raise UserError(
                f"{self.source} has {name} of shape {array.shape} and type {array.dtype} for rows "
                f"of shape {self.shape}; expected integers of shape {expected}"
            )
        if self.mask is not None and array.shape == self.mask.shape:
            array = np.where(self.mask, array, array.dtype.type(0))
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > LARGEST:
            raise UserError(
                f"{self.source} has {high if low >= 0 else low} among its {name}; expected 0 to "
                f"{LARGEST}"
            )
        return array.astype(np.int32)
