"""Records of text files: plain text, JSON lines or parquet; the first two may be compressed."""

import contextlib
import gzip
import importlib
import io
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from vasae_jax.extract.parquet_pages import page_sizes
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.read_json import parse_json
from vasae_jax.utils.sizes import Growth

COMPRESSED = (".gz", ".zst")
PLAIN = (".txt", ".md")
"""Files that are one document each."""
LINE = 2**28
"""Most bytes of a line: the longest document, with each character in JSON's longest form."""
BATCH = 64
"""Rows of a parquet file that are in memory at once."""
MASK = "attention_mask"
"""The field beside token ids that is 0 where they are padding."""
_BROKEN = (OSError, EOFError, zlib.error)
"""What reading a file that is cut or damaged raises."""


class Record(NamedTuple):
    """One record of a source of text."""

    place: str
    """For messages: the source, and the record's number in it."""
    fields: Any
    """Its content; of a record that can be used, a dict."""


Reader = Callable[[Path, str], Iterator[Record]]
"""The records of a file, given the field that holds their text."""


def ending(path: Path) -> str:
    """The end of a file's name in lower case, such as ``.txt`` or ``.jsonl.gz``; may be empty."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() + suffix if suffix in COMPRESSED else suffix


def reader_of(path: Path) -> Reader | None:
    """How to read a file, by the end of its name; None if it is of no known kind."""
    end = ending(path)
    plain = end
    for suffix in COMPRESSED:
        plain = plain.removesuffix(suffix)
    if plain == ".parquet":
        return _parquet if end == plain else None
    return _whole if plain in PLAIN else {".jsonl": _json_lines}.get(plain)


def is_plain(path: Path) -> bool:
    """Whether a file is plain text, which is one document."""
    return reader_of(path) is _whole


def import_extra(module: str, source: object) -> Any:
    """A module of the ``data`` extra, needed for ``source``; UserError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{source} needs the package {module.partition('.')[0]}, which is not installed; "
            "expected: pip install vasae-jax[data]"
        ) from error


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """A file's content, decompressed; reading raises UserError where that is out of proportion."""
    suffix = path.suffix.lower()
    if suffix not in COMPRESSED:
        with open(path, "rb") as file:
            yield file
        return
    if suffix == ".zst":
        arrow = import_extra("pyarrow", path)
        opened = arrow.CompressedInputStream(arrow.OSFile(str(path)), "zstd")
    else:
        opened = gzip.GzipFile(path)
    with opened as stream, io.BufferedReader(_Counted(stream, Growth(path))) as counted:
        yield counted


class _Counted(io.RawIOBase):
    """A decompressed stream whose bytes are counted."""

    def __init__(self, stream: Any, growth: Growth) -> None:
        self._stream, self._growth = stream, growth

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count: int = self._stream.readinto(buffer)
        self._growth.add(count)
        return count


def _whole(path: Path, field: str) -> Iterator[Record]:
    try:
        with _open(path) as file:
            text = file.read().decode()
    except UnicodeDecodeError as error:
        raise UserError(
            f"text {path} is not UTF-8 (byte {error.start}); expected UTF-8 text"
        ) from error
    except _BROKEN as error:
        raise UserError(
            f"text {path} cannot be read to its end ({first_line(error)}); expected a whole file"
        ) from error
    yield Record(str(path), {field: text})


def _json_lines(path: Path, field: str) -> Iterator[Record]:
    number = 0
    try:
        with _open(path) as lines:
            for number, line in enumerate(iter(partial(lines.readline, LINE + 1), b""), 1):
                if len(line) > LINE:
                    raise UserError(
                        f"text {path} line {number} has more than {LINE:,} bytes; expected one "
                        "document a line"
                    )
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    place = f"{path} line {number}"
                    yield Record(place, _parse(line, place))
    except _BROKEN as error:
        raise UserError(
            f"text {path} cannot be read after line {number} ({first_line(error)}); expected a "
            "whole file"
        ) from error


def _parse(line: bytes, place: str) -> Any:
    # Half a surrogate pair matters in the text alone, and NaN nowhere: other fields are not read.
    cut = "" if line.endswith(b"\n") else ", where the file ends,"
    return parse_json(line, f"text {place}{cut}", "one object", nan=True, half_pairs=True)


def _parquet(path: Path, field: str) -> Iterator[Record]:
    parquet, arrow = (import_extra(name, path) for name in ("pyarrow.parquet", "pyarrow"))
    first, growth = 0, Growth(path)
    try:
        # Opened here, since pyarrow's own paths are UTF-8 alone.
        with path.open("rb") as opened, parquet.ParquetFile(opened) as file:
            columns = _columns(file.schema_arrow, field, path)
            leaves = _leaves(file.metadata, columns, path, growth)
        # Texts that come again are kept once, until their lengths are counted.
        with path.open("rb") as opened, parquet.ParquetFile(opened, read_dictionary=leaves) as file:
            for batch in file.iter_batches(columns=columns, batch_size=BATCH):
                growth.add(sum(map(_repeated_bytes, batch.columns)))
                for number, fields in enumerate(batch.to_pylist(), first):
                    yield Record(f"{path} row {number}", fields)
                first += batch.num_rows
    except (arrow.ArrowException, OSError, ValueError, IndexError, MemoryError) as error:
        raise UserError(
            f"text {path} cannot be read as parquet from row {first} on ({first_line(error)}); "
            "expected a whole file of UTF-8 text"
        ) from error


def _columns(schema: Any, field: str, path: Path) -> list[str]:
    """The columns to read: that of ``field``, and the mask of token ids."""
    if field not in schema.names:
        raise UserError(
            f"text {path} has no column {field!r}; expected one of {', '.join(schema.names)} (see "
            "--text-field)"
        )
    ids = import_extra("pyarrow.types", path).is_nested(schema.field(field).type)
    return [field, *([MASK] if ids and MASK in schema.names else [])]


def _leaves(metadata: Any, columns: list[str], path: Path, growth: Growth) -> list[str]:
    """The byte columns within ``columns``; what the pages of all state is counted as ``growth``."""
    leaves = set()
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for leaf in map(group.column, range(group.num_columns)):
            name, first = leaf.path_in_schema, leaf.data_page_offset
            if name.split(".")[0] not in columns:
                continue
            if leaf.has_dictionary_page and leaf.dictionary_page_offset is not None:
                first = min(first, leaf.dictionary_page_offset)
            nested = "." in name  # of which one row may hold all values
            for size, values in page_sizes(path, first, leaf.total_compressed_size):
                growth.add(max(size, 8 * values * nested))
            if leaf.physical_type == "BYTE_ARRAY":
                leaves.add(name)
    return sorted(leaves)


def _repeated_bytes(array: Any) -> int:
    """The bytes of all texts in an array, once each of them is written out."""
    arrow, compute = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.compute"))
    if arrow.types.is_dictionary(array.type):
        lengths = compute.binary_length(array.dictionary).take(array.indices)
        return compute.sum(lengths).as_py() or 0
    if arrow.types.is_struct(array.type):
        return sum(map(_repeated_bytes, array.flatten()))
    return _repeated_bytes(array.flatten()) if arrow.types.is_nested(array.type) else 0
