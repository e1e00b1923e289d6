"""Records of text files: plain text, JSON lines or parquet; the first two may be compressed."""

import contextlib
import gzip
import importlib
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.read_json import parse_json

COMPRESSED = (".gz", ".zst")
PLAIN = (".txt", ".md")
"""Files that are one document each."""
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
    """A file's content, decompressed."""
    if path.suffix.lower() == ".zst":
        arrow = import_extra("pyarrow", path)
        with arrow.CompressedInputStream(arrow.OSFile(str(path)), "zstd") as stream:
            yield io.BufferedReader(stream)
        return
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    with opener(path, "rb") as file:
        yield file


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
            for number, line in enumerate(lines, 1):
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
    first = 0
    try:
        # Opened here, since its paths are UTF-8 alone.
        with path.open("rb") as opened, parquet.ParquetFile(opened) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise UserError(
                    f"text {path} has no column {field!r}; expected one of "
                    f"{', '.join(names)} (see --text-field)"
                )
            ids = arrow.types.is_nested(file.schema_arrow.field(field).type)
            columns = [field, *([MASK] if ids and MASK in names else [])]
            for batch in file.iter_batches(columns=columns):
                for number, fields in enumerate(batch.to_pylist(), first):
                    yield Record(f"{path} row {number}", fields)
                first += batch.num_rows
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"text {path} cannot be read as parquet from row {first} on ({first_line(error)}); "
            "expected a whole file of UTF-8 text"
        ) from error
