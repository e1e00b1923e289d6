"""Documents out of text files, tables of text, CPython's own help topics or a ``datasets`` name.

A document is what the held-out split keeps together, so every source says where one ends:

* a directory holds ``.txt`` (one document a file), ``.jsonl`` and ``.parquet`` (one a record),
  read in the order of their names;
* one ``.txt`` file given alone is cut at blank lines into pieces of at least
  ``PIECE_CHARACTERS`` characters, because held-out documents need several of them;
* ``pydoc-topics`` is the help text that ships inside CPython, one document a topic, by name;
* ``hf:NAME`` or ``hf:USER/NAME/CONFIG`` is streamed by the ``datasets`` package.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vasae_jax.utils.errors import UserError

PIECE_CHARACTERS = 2000
LONGEST = 2**24
"""Most characters of a document: to tokenise one takes some 200 bytes of memory a character."""
SUFFIXES = (".txt", ".jsonl", ".parquet")
EXPECTED = "a .txt, .jsonl or .parquet file, a directory of these, pydoc-topics or hf:NAME"


def read_documents(source: str, field: str = "text", split: str = "train") -> Iterator[str]:
    """Iterate over the documents of ``source`` in its own order.

    Args:
        source: a path, ``pydoc-topics``, or ``hf:NAME``, ``hf:USER/NAME``,
            ``hf:USER/NAME/CONFIG`` for the ``datasets`` package.
        field: the field of a .jsonl record, .parquet column or dataset that holds the text.
        split: the split of a ``hf:`` dataset.

    Raises:
        UserError: at once if the source does not exist or is of no known kind; while
            iterating, if a record cannot be read, naming the file and the record, or a document
            is longer than LONGEST.
    """
    return _bounded(_documents(source, field, split), source)


def _documents(source: str, field: str, split: str) -> Iterator[str]:
    if source == "pydoc-topics":
        return _pydoc_topics()
    if source.startswith("hf:"):
        return _datasets(source, field, split)
    path = Path(source)
    if path.is_dir():
        return _directory(path, field)
    if not path.is_file():
        raise UserError(f"text {source} was not found; expected {EXPECTED}")
    if path.suffix == ".txt":
        return pieces(_read_text(path))
    return _reader(path)(path, field)


def pieces(text: str, least: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Cut ``text`` at blank lines into pieces of at least ``least`` characters (save the last)."""
    start = 0
    for blank in re.finditer(r"\n[ \t]*\n\s*", text):
        if blank.start() - start >= least:
            yield text[start : blank.start()]
            start = blank.end()
    if text[start:].strip():
        yield text[start:]


def _bounded(documents: Iterator[str], source: str) -> Iterator[str]:
    for number, text in enumerate(documents, 1):
        if len(text) > LONGEST:
            raise UserError(
                f"document {number} of text {source} has {len(text):,} characters; expected at "
                f"most {LONGEST:,}: cut it into several"
            )
        yield text


def _pydoc_topics() -> Iterator[str]:
    from pydoc_data.topics import topics

    return (topics[name] for name in sorted(topics))


def _directory(path: Path, field: str) -> Iterator[str]:
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    if not files:
        raise UserError(f"text directory {path} holds no .txt, .jsonl or .parquet file")
    return (document for file in files for document in _reader(file)(file, field))


def _reader(path: Path) -> Callable[[Path, str], Iterator[str]]:
    readers = {".txt": _whole_file, ".jsonl": _jsonl, ".parquet": _parquet}
    if path.suffix not in readers:
        raise UserError(f"text {path} ends in {path.suffix or 'nothing'!r}; expected {EXPECTED}")
    return readers[path.suffix]


def _whole_file(path: Path, field: str) -> Iterator[str]:
    yield _read_text(path)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"text {path} is not UTF-8 (byte {error.start}); expected UTF-8 text"
        ) from error
    except OSError as error:
        raise UserError(f"text {path} cannot be read: {error.strerror}") from error


def _jsonl(path: Path, field: str) -> Iterator[str]:
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _field(_record(line, path, number), field, f"{path} line {number}")
    except OSError as error:
        raise UserError(f"text {path} cannot be read: {error.strerror}") from error


def _record(line: bytes, path: Path, number: int) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"text {path} line {number} is not JSON; expected one object") from error


def _field(record: Any, field: str, place: str) -> str:
    if not isinstance(record, dict):
        raise UserError(f"text {place} holds a {type(record).__name__}; expected one object")
    text = record.get(field)
    if not isinstance(text, str):
        found = "no such field" if field not in record else f"a {type(text).__name__}"
        raise UserError(
            f"text {place}: field {field!r} was looked for and {found} found; "
            f"expected a string (fields: {', '.join(map(str, record)) or 'none'}; see --text-field)"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"text {place}: field {field!r} holds half of a surrogate pair (character "
            f"{error.start}), which is no text; expected Unicode"
        ) from error
    return text


def _parquet(path: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise _missing("pyarrow", str(path)) from error
    try:
        table = pyarrow.parquet.ParquetFile(path)
        names = table.schema_arrow.names
        if field not in names:
            raise UserError(
                f"text {path} has no column {field!r}; expected one of "
                f"{', '.join(names)} (see --text-field)"
            )
        first = 0
        for part in table.iter_batches(columns=[field]):
            for number, text in enumerate(part.column(0).to_pylist(), first):
                yield _field({field: text}, field, f"{path} row {number}")
            first += part.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"text {path} is not a readable parquet file: {error}") from error


def _datasets(source: str, field: str, split: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError as error:
        raise _missing("datasets", source) from error
    name, config = _dataset_name(source.removeprefix("hf:"))
    try:
        records = datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(
            f"dataset {source} (split {split}) cannot be opened: {reason[0]}; "
            "expected hf:NAME, hf:USER/NAME or hf:USER/NAME/CONFIG"
        ) from error
    return (_field(record, field, f"{source} record {i}") for i, record in enumerate(records))


def _dataset_name(name: str) -> tuple[str, str | None]:
    parts = name.split("/")
    if Path(name).is_dir() or len(parts) < 3:
        return name, None
    return "/".join(parts[:2]), "/".join(parts[2:])


def _missing(package: str, source: str) -> UserError:
    return UserError(
        f"text {source} needs the package {package}, which is not installed; "
        "expected: pip install vasae-jax[data]"
    )
