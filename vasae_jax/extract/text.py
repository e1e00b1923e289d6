"""Documents from text files, texts that need no download, or the ``datasets`` package.

All windows of a document go to the same split. Where a document ends depends on the source:

* a directory holds ``.txt`` (one document a file), ``.jsonl`` and ``.parquet`` (one a record),
  read in the order of their names;
* a single ``.txt`` file is cut at blank lines into pieces of at least ``PIECE_CHARACTERS``
  characters, since at least two documents are needed to hold one out;
* ``english`` is a mixed text in the public domain that ships with this package;
* ``pydoc-topics`` is the help text that ships with CPython, one document a topic, by name;
* ``hf:NAME`` or ``hf:USER/NAME/CONFIG`` is streamed by the ``datasets`` package.
"""

import gzip
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vasae_jax.lm.chat import Message, is_conversation
from vasae_jax.utils.errors import UserError, first_line

PIECE_CHARACTERS = 2000
LONGEST = 2**24
"""Most characters of a document. Tokenising takes about 200 bytes of memory a character."""
ENGLISH = Path(__file__).with_name("english.jsonl.gz")
"""Chapters of novels, country profiles and speeches; english.md beside it says where from."""
Document = str | list[Message]
"""A text, or the messages of a conversation."""
EXPECTED = "a .txt, .jsonl or .parquet file, a directory of these, english, pydoc-topics or hf:NAME"


def read_documents(source: str, field: str = "text", split: str = "train") -> Iterator[Document]:
    """Iterate over the documents of ``source`` in its own order.

    Args:
        source: a path, ``english``, ``pydoc-topics``, or ``hf:NAME``, ``hf:USER/NAME``,
            ``hf:USER/NAME/CONFIG`` for the ``datasets`` package.
        field: the field of a .jsonl record, .parquet column or dataset that holds the text, or
            messages, each with a role and a content.
        split: the split of a ``hf:`` dataset.

    Raises:
        UserError: at once if the source does not exist or is of no known kind; while
            iterating, if a record cannot be read, naming the file and the record, or a document
            is longer than LONGEST.
    """
    return _check_lengths(_documents(source, field, split), source)


def _documents(source: str, field: str, split: str) -> Iterator[Document]:
    if source == "english":
        with gzip.open(ENGLISH, "rt", encoding="utf-8") as lines:
            return iter([json.loads(line)["text"] for line in lines])
    if source == "pydoc-topics":
        from pydoc_data.topics import topics

        return (topics[name] for name in sorted(topics))
    if source.startswith("hf:"):
        return _dataset(source, field, split)
    path = Path(source)
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in READERS and file.is_file())
        if not files:
            raise UserError(f"text directory {path} holds no .txt, .jsonl or .parquet file")
        return (document for file in files for document in READERS[file.suffix](file, field))
    if not path.is_file():
        raise UserError(f"text {source} was not found; expected {EXPECTED}")
    if path.suffix not in READERS:
        raise UserError(f"text {path} ends in {path.suffix or 'nothing'!r}; expected {EXPECTED}")
    documents = READERS[path.suffix](path, field)
    return pieces(str(next(documents))) if path.suffix == ".txt" else documents


def pieces(text: str, least: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Cut ``text`` at blank lines into pieces of at least ``least`` characters (save the last)."""
    start = 0
    for blank in re.finditer(r"\n[ \t]*\n\s*", text):
        if blank.start() - start >= least:
            yield text[start : blank.start()]
            start = blank.end()
    if text[start:].strip():
        yield text[start:]


def import_extra(module: str, source: object) -> Any:
    """A module of the ``data`` extra, needed for ``source``; UserError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{source} needs the package {module.partition('.')[0]}, which is not installed; "
            "expected: pip install vasae-jax[data]"
        ) from error


def _check_lengths(documents: Iterator[Document], source: str) -> Iterator[Document]:
    for number, text in enumerate(documents, 1):
        parts = [text] if isinstance(text, str) else [message["content"] for message in text]
        if (length := sum(map(len, parts))) > LONGEST:
            raise UserError(
                f"document {number} of text {source} has {length:,} characters; expected at "
                f"most {LONGEST:,}: cut it into several"
            )
        yield text


def _text_file(path: Path, field: str) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"text {path} is not UTF-8 (byte {error.start}); expected UTF-8 text"
        ) from error
    except OSError as error:
        raise UserError(f"text {path} cannot be read: {error.strerror}") from error
    yield text


def _jsonl(path: Path, field: str) -> Iterator[Document]:
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    place = f"{path} line {number}"
                    yield _field(_parse(line, place), field, place)
    except OSError as error:
        raise UserError(f"text {path} cannot be read: {error.strerror}") from error


def _parse(line: bytes, place: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"text {place} is not JSON; expected one object") from error


def _field(record: Any, field: str, place: str) -> Document:
    """The text or messages in a field of ``record``; UserError names the record's place."""
    if not isinstance(record, dict):
        raise UserError(f"text {place} holds a {type(record).__name__}; expected one object")
    text: Any = record.get(field)
    if is_conversation(text):
        messages: list[Message] = text
        return messages
    if not isinstance(text, str):
        kind = f"a {type(text).__name__}" if field in record else "missing"
        raise UserError(
            f"text {place}: field {field!r} is {kind}; expected a string, or messages with role "
            f"and content (fields: {', '.join(map(str, record)) or 'none'}; see --text-field)"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"text {place}: field {field!r} holds half of a surrogate pair (character "
            f"{error.start}); expected Unicode text"
        ) from error
    return str(text)


def _parquet(path: Path, field: str) -> Iterator[Document]:
    parquet, arrow = (import_extra(name, path) for name in ("pyarrow.parquet", "pyarrow"))
    try:
        table = parquet.ParquetFile(path)
        names = table.schema_arrow.names
        if field not in names:
            raise UserError(
                f"text {path} has no column {field!r}; expected one of "
                f"{', '.join(names)} (see --text-field)"
            )
        first = 0
        for batch in table.iter_batches(columns=[field]):
            for number, text in enumerate(batch.column(0).to_pylist(), first):
                yield _field({field: text}, field, f"{path} row {number}")
            first += batch.num_rows
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"text {path} is not a readable parquet file: {error}") from error


def _dataset(source: str, field: str, split: str) -> Iterator[Document]:
    datasets = import_extra("datasets", source)
    name, config = source.removeprefix("hf:"), None
    if name.count("/") > 1 and not Path(name).is_dir():
        user, repository, config = name.split("/", 2)
        name = f"{user}/{repository}"
    try:
        records = datasets.load_dataset(name, config, split=split, streaming=True)
    except Exception as error:
        raise UserError(
            f"dataset {source} (split {split}) cannot be opened: {first_line(error)}; "
            "expected hf:NAME, hf:USER/NAME or hf:USER/NAME/CONFIG"
        ) from error
    return (_field(record, field, f"{source} record {i}") for i, record in enumerate(records))


READERS = {".txt": _text_file, ".jsonl": _jsonl, ".parquet": _parquet}
"""How to read the documents of a file, by the end of its name."""
