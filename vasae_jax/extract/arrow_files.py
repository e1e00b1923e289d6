"""Arrow streams of numbers, mapped into memory: none that would grow when they are read."""

import struct
from pathlib import Path
from typing import Any

from vasae_jax.extract.text_files import import_extra


def mapped_table(file: Path) -> Any:
    """The table in an Arrow stream, whose numbers stay in the file until they are used.

    Raises:
        ValueError: it is no such stream, has compressed batches, columns of other things than
            numbers and lists of them, or lengths that do not fit what it holds.
        OSError: it cannot be read.
    """
    arrow = import_extra("pyarrow", file)
    for message in arrow.ipc.MessageReader.open_stream(arrow.memory_map(str(file))):
        if message.type == "schema":
            continue
        if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
            raise ValueError(f"{file.name} has a compressed batch; expected it as datasets writes")
    table = arrow.ipc.open_stream(arrow.memory_map(str(file))).read_all()
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not _is_numbers(arrow.types, column.type):
            raise ValueError(f"{file.name} has column {name} of {column.type}; expected numbers")
    table.validate(full=True)
    return table


def _is_numbers(types: Any, kind: Any) -> bool:
    """Whether a column holds numbers, or lists of them."""
    kind = getattr(kind, "storage_type", kind)
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _is_compressed(message: bytes) -> bool:
    """Whether the metadata of a record batch, a flatbuffer, state a compression.

    They are field 3 of the table ``RecordBatch``, which is field 2 of the table ``Message``
    (Arrow's format/Message.fbs).
    """
    try:
        header = _field(message, _table(message, 0), 2)
        return header is not None and _field(message, _table(message, header), 3) is not None
    except struct.error as error:
        raise ValueError("a message's metadata are damaged") from error


def _table(data: bytes, at: int) -> int:
    """Where the table lies that the offset at ``at`` leads to."""
    offset: int = struct.unpack_from("<I", data, at)[0]
    return at + offset


def _field(data: bytes, table: int, index: int) -> int | None:
    """Where a field of a table lies, or None."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    place = 4 + 2 * index
    if place >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset: int = struct.unpack_from("<H", data, vtable + place)[0]
    return table + offset if offset else None
