"""What the pages of a parquet file state of themselves, read before any page is decompressed.

A file's index states sizes too, but nothing checks them against its pages. Before each page lies a
``PageHeader`` in Thrift's compact protocol (parquet-format's parquet.thrift).
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_UNCOMPRESSED, _COMPRESSED = 2, 3
_VALUES_BY_KIND = (5, 7, 8)
"""Headers of data pages, dictionaries and data pages of version 2; field 1 counts values."""
_DEEPEST = 8


def page_sizes(path: Path, at: int, length: int) -> Iterator[tuple[int, int]]:
    """The bytes and the values that each page of a column is stated to have, decompressed.

    Args:
        path: the file.
        at: first byte of the column.
        length: its bytes.

    Raises:
        ValueError, IndexError: a header cannot be understood.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        end = min(at + length, len(data))
        while at < end:
            header, at = _struct(data, at, _DEEPEST)
            size, packed = header.get(_UNCOMPRESSED), header.get(_COMPRESSED)
            if not isinstance(size, int) or not isinstance(packed, int) or min(size, packed) < 0:
                raise ValueError("a page states no size")
            at += packed
            yield size, sum(_count(header.get(kind)) for kind in _VALUES_BY_KIND)


def _count(header: Any) -> int:
    """The values of a page, by the header of its kind."""
    count = header.get(1) if isinstance(header, dict) else 0
    return count if isinstance(count, int) else 0


def _struct(data: mmap.mmap, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """The fields of a struct by number, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while kind := data[at] & 15:
        step, at = data[at] >> 4, at + 1
        if not step:
            number, at = _integer(data, at)
        else:
            number += step
        # A field of type bool has its value in its type.
        fields[number], at = (kind == 1, at) if kind in (1, 2) else _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: mmap.mmap, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A value of one of Thrift's types, and where it ends; of lists and texts only the end."""
    if kind == 3:  # a byte
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 7:  # a double
        return None, at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return None, at + length
    if kind == 12 and depth:
        return _struct(data, at, depth - 1)
    raise ValueError(f"a page's header has a field of type {kind}")


def _integer(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A signed number, whose sign is its last bit."""
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the last byte below 128."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("a number in a page's header has no end")
