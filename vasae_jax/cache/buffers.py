"""Rows held in memory until a whole shard can be written."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from vasae_jax.cache.manifest import COLUMNS, CachePlan, acts_key, column_key, norms_key
from vasae_jax.system.errors import UserError

BLOCK = 1024  # rows whose norms are taken at once: small enough to stay in the processor's cache


class SplitBuffer:
    """The rows of one split from the last whole shard on.

    Attributes:
        start: row of the split that the buffer begins with.
        held: rows in the buffer, below ``plan.shard_rows``.
    """

    def __init__(self, split: str, plan: CachePlan, start: int) -> None:
        self.split = split
        self.plan = plan
        self.start = start
        self.held = 0
        self._arrays = self._allocate()
        self._other = self._allocate()

    @property
    def position(self) -> int:
        """The row of the split that comes next."""
        return self.start + self.held

    @property
    def room(self) -> int:
        """Rows until the shard is full."""
        return self.plan.shard_rows - self.held

    def add(self, columns: Mapping[str, np.ndarray], rows: Mapping[int, np.ndarray]) -> None:
        """Copy in n rows, at most ``room``: ``columns`` [n], ``rows`` [n, d_model] by layer.

        Raises:
            UserError: a row has a value that is not finite as it would be stored.
        """
        place = slice(self.held, self.held + len(columns["tokens"]))
        for layer, values in rows.items():
            acts = self._arrays[acts_key(self.split, layer)][place]
            with np.errstate(over="ignore"):  # an overflow becomes inf and is refused below
                acts[...] = values.astype(acts.dtype, copy=False)
            norms = row_norms(acts)
            if not np.isfinite(norms).all():
                self._refuse(layer, int(np.flatnonzero(~np.isfinite(norms))[0]), columns)
            self._arrays[norms_key(self.split, layer)][place] = norms
        for name in COLUMNS:
            self._arrays[column_key(self.split, name)][place] = columns[name]
        self.held = place.stop

    def take(self) -> dict[str, np.ndarray]:
        """All rows held, by array; the buffer is empty afterwards and begins after them.

        The arrays stay as they are until ``take`` is called again.
        """
        taken = {key: array[: self.held] for key, array in self._arrays.items()}
        self.start, self.held = self.position, 0
        self._arrays, self._other = self._other, self._arrays
        return taken

    def _allocate(self) -> dict[str, np.ndarray]:
        # np.empty of this size takes no memory until a row is copied in. The two sets are used
        # in turn: rows copied to memory in use already take half the time.
        return {
            key: np.empty((self.plan.shard_rows, *([width] if width else [])), np_dtype(dtype))
            for key, (dtype, width) in self.plan.split_arrays(self.split).items()
        }

    def _refuse(self, layer: int, row: int, columns: Mapping[str, np.ndarray]) -> None:
        raise UserError(
            f"layer {layer} has a value that is not finite as {self.plan.dtype} in document "
            f"{columns['docs'][row]} at position {columns['positions'][row]}; expected finite rows"
        )


def row_norms(rows: np.ndarray) -> np.ndarray:
    """L2 norm of each row: float32 [n], not finite exactly where a row is not."""
    norms = np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK].astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            norms[start : start + BLOCK] = np.sqrt(np.einsum("ij,ij->i", block, block))
    for row in np.flatnonzero(~np.isfinite(norms)):  # finite numbers whose squares are not
        norms[row] = np.sqrt(np.square(rows[row].astype(np.float64)).sum())
    return norms


def np_dtype(name: str) -> np.dtype:
    """NumPy's type of that name, bfloat16 included."""
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)
