"""Whether a GGUF file holds all that its header states, before the ``gguf`` package reads it.

That package counts to any length that is stated, past the end of the file too, and keeps an object
for each number of a list.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

MOST_VALUES = 2**22
"""Values in all lists of the metadata together; of each the package makes an object of 0.3 kB. A
vocabulary of 262,144 tokens, with types, scores and merges, has 1.3 million."""
_SIZES = {
    **dict.fromkeys((GGUFValueType.UINT8, GGUFValueType.INT8, GGUFValueType.BOOL), 1),
    **dict.fromkeys((GGUFValueType.UINT16, GGUFValueType.INT16), 2),
    **dict.fromkeys((GGUFValueType.UINT32, GGUFValueType.INT32, GGUFValueType.FLOAT32), 4),
    **dict.fromkeys((GGUFValueType.UINT64, GGUFValueType.INT64, GGUFValueType.FLOAT64), 8),
}


def check_header(path: Path) -> None:
    """Check the lengths and shapes that a GGUF file states.

    Raises:
        ValueError, struct.error: it ends before they do, its tensors are larger together than the
            file, or it has lists in lists or more than MOST_VALUES values in lists.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        _Header(data).check()


class _Header:
    """Goes through a file's header without keeping anything of it."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at, self._values = data, 0, 0
        # The version is a small number, whose low half is 0 in the other byte order.
        self._order = "<" if struct.unpack_from("<HH", data, 4)[0] else ">"

    def check(self) -> None:
        """Go through metadata and tensors; see :func:`check_header`."""
        self._skip(8)
        tensors, pairs = self._next("QQ")
        for _ in range(pairs):
            self._skip_string()
            self._skip_value(self._next("I")[0])
        stated = sum(self._tensor_bytes() for _ in range(tensors))
        if stated > len(self._data):
            raise ValueError(f"its tensors state {stated:,} bytes in {len(self._data):,}")

    def _next(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from(self._order + form, self._data, self._at)
        self._at += struct.calcsize(self._order + form)
        return values

    def _skip(self, count: int) -> None:
        if self._at + count > len(self._data):
            raise ValueError(f"it states {count:,} bytes at {self._at:,} of {len(self._data):,}")
        self._at += count

    def _skip_string(self) -> None:
        self._skip(self._next("Q")[0])

    def _skip_value(self, kind: int) -> None:
        if kind == GGUFValueType.ARRAY:
            self._skip_list()
        elif kind == GGUFValueType.STRING:
            self._skip_string()
        else:
            self._skip(_SIZES[GGUFValueType(kind)])

    def _skip_list(self) -> None:
        kind, count = self._next("IQ")
        self._values += count
        if kind == GGUFValueType.ARRAY or self._values > MOST_VALUES:
            raise ValueError(f"a list of {count:,} values of type {kind} in its metadata")
        if kind == GGUFValueType.STRING:
            for _ in range(count):
                self._skip_string()
        else:
            self._skip(count * _SIZES[GGUFValueType(kind)])

    def _tensor_bytes(self) -> int:
        """The bytes that a tensor is stated to have."""
        self._skip_string()
        shape = self._next(f"{min(self._next('I')[0], 64)}Q")
        kind, _ = self._next("IQ")
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        size: int = math.prod(shape) * block_bytes // block
        return size
