"""A cache's rows as NumPy files."""

from pathlib import Path

import numpy as np

from vasae_jax.cache import Cache, RowArray
from vasae_jax.system.files import atomic_file, refuse_existing

AT_ONCE = 32 * 2**20
"""Bytes of rows read at once, about."""


def export_rows(
    cache: Cache, layer: int, split: str, folder: Path, overwrite: bool = False
) -> tuple[Path, ...]:
    """Write rows.npy float32 [N, d], tokens.npy, positions.npy and docs.npy int32 [N].

    Raises:
        UserError: no such layer or split, damaged rows, an existing file (and ``overwrite`` was
            not asked for), or a place that cannot be written.
    """
    arrays = {name: cache.column(name, split) for name in ("tokens", "positions", "docs")}
    arrays["rows"] = cache.acts(layer, split)
    paths = {name: folder / f"{name}.npy" for name in arrays}
    for path in paths.values():
        refuse_existing(path, overwrite=overwrite)
    for name, array in arrays.items():
        _write(paths[name], array, np.dtype(np.float32 if name == "rows" else np.int32))
    return tuple(paths.values())


def _write(path: Path, array: RowArray, dtype: np.dtype) -> None:
    count = array.shape[0]
    width = int(np.prod(array.shape[1:], dtype=np.int64))
    size = max(1, AT_ONCE // (dtype.itemsize * max(width, 1)))
    header = {"descr": dtype.str, "fortran_order": False, "shape": array.shape}
    with atomic_file(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, count, size):
            part = array.read(first, min(first + size, count))
            file.write(np.ascontiguousarray(part, dtype).tobytes())
