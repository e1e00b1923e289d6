"""What a file declares, compared with what is there before it is read.

A file that was compressed may grow to GROWTH times its size, and to FREE bytes in any case. What is
stored as it is may not grow at all.
"""

import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from vasae_jax.utils.errors import UserError

FREE = 2**26
"""Bytes that any file may grow to when it is read."""
GROWTH = 100
"""How many times its size a compressed file may have when it is read. Text shrinks to a third or a
tenth, weights hardly at all."""
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, tokenize.TokenError),
    *(EOFError, KeyError, TypeError, SyntaxError, RuntimeError, MemoryError, OverflowError),
)
"""What reading an archive raises that is none, is damaged or asks for a password."""


class Growth:
    """Counts the bytes that come out of a compressed file, until they are too many."""

    def __init__(self, path: Path) -> None:
        self._path, self._bytes = path, 0
        self._most = max(FREE, GROWTH * path.stat().st_size)

    def add(self, count: int) -> None:
        """Count ``count`` more bytes; UserError if the file has grown too large."""
        self._bytes += count
        if self._bytes > self._most:
            raise UserError(
                f"{self._path} grows to more than {self._most:,} bytes when it is read; expected "
                f"at most {GROWTH} times its size (or decompress it first)"
            )


def read_npz(path: str | os.PathLike[str], *, compressed: bool = False) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` by name, once its sizes are seen to be true.

    Args:
        path: the file.
        compressed: whether its arrays may be compressed.

    Raises:
        ValueError: it is none or damaged, holds pickles, or states more than it holds.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, Path(path), compressed)
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    _check_npy(file, entry)
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except _DAMAGED as error:
        raise ValueError(f"no sound .npz: {str(error) or type(error).__name__}") from error


def check_stored(path: str | os.PathLike[str]) -> None:
    """Raise ValueError if ``path`` is a zip archive that would grow when it is read."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, Path(path), compressed=False)
    except _DAMAGED as error:
        raise ValueError(f"no sound archive: {error}") from error


def _check_archive(archive: zipfile.ZipFile, path: Path, compressed: bool) -> None:
    """Compare the sizes that an archive states with that of its file."""
    entries, size = archive.infolist(), path.stat().st_size
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if packed and not compressed:
        raise ValueError(f"{packed[0].filename} is compressed in it; expected it stored as it is")
    inflated = sum(entry.file_size for entry in entries)
    if inflated > (max(FREE, GROWTH * size) if packed else size):
        raise ValueError(f"it holds {inflated:,} bytes in {size:,}")


def _check_npy(file: IO[bytes], entry: zipfile.ZipInfo) -> None:
    """Compare the shape that an array's header states with the bytes that follow."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"{entry.filename} is of .npy version {version}; expected 1 or 2")
    shape, _, dtype = _HEADERS[version](file)
    stated, held = math.prod(shape) * dtype.itemsize, entry.file_size - file.tell()
    if stated != held and not dtype.hasobject:
        raise ValueError(f"{entry.filename} states {stated:,} bytes {shape} and has {held:,}")
