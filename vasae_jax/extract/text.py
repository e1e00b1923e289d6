"""Documents from text files, texts that need no download, or the ``datasets`` package.

All windows of a document go to the same split. Where a document ends depends on the source:

* a directory, with those in it, holds ``.txt`` and ``.md`` (one document a file), ``.jsonl`` and
  ``.parquet`` (one a record), read in the order of their paths; names that begin with a dot are
  left out;
* a single ``.txt`` or ``.md`` file is cut at blank lines into pieces of at least
  ``PIECE_CHARACTERS`` characters, since at least two documents are needed to hold one out;
* ``english`` is a mixed text in the public domain that ships with this package;
* ``pydoc-topics`` is the help text that ships with CPython, one document a topic, by name;
* ``hf:NAME`` or ``hf:USER/NAME/CONFIG`` is streamed by the ``datasets`` package.

Text and JSON lines may be compressed (``.gz``, ``.zst``). A byte order mark before a document is
dropped and its lines end in ``\\n``, whatever the source.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vasae_jax.extract.text_files import MASK, Record, ending, is_plain, reader_of
from vasae_jax.extract.text_stream import dataset_records
from vasae_jax.lm.chat import Message, is_conversation
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.streams import note

PIECE_CHARACTERS = 2000
LONGEST = 2**24
"""Most characters or tokens of a document. Tokenising takes 200 bytes of memory a character."""
MOST = 0.01
"""Most records without usable text that are skipped, as a share of the records read."""
FEW = 100
"""So many may be skipped before their share counts, which it does at the end in any case."""
KINDS = ".txt, .md, .jsonl or .parquet"
EXPECTED = f"a {KINDS} file, a directory of these, english, pydoc-topics or hf:NAME"

ENGLISH = Path(__file__).with_name("english.jsonl.gz")
"""Chapters of novels, country profiles and speeches; english.md beside it says where from."""
Text = str | list[int]
"""A text, or the ids of its tokens."""
Document = Text | list[Message]
"""What a source holds: texts, ids, or the messages of a conversation."""


def read_documents(source: str, field: str = "text", split: str = "train") -> Iterator[Document]:
    """Iterate over the documents of ``source`` in its own order.

    Files of a directory that are not read are counted by kind in one line on stderr, and so are
    records that are skipped because their text is null or cannot be used.

    Args:
        source: a path, ``english``, ``pydoc-topics``, or ``hf:NAME``, ``hf:USER/NAME``,
            ``hf:USER/NAME/CONFIG`` for the ``datasets`` package.
        field: the field of a .jsonl record, .parquet column or dataset that holds the text,
            messages, each with a role and a content, or a list of token ids; of these
            ``attention_mask``, if there is one, marks padding.
        split: the split of a ``hf:`` dataset.

    Raises:
        UserError: at once if the source does not exist or is of no known kind; while
            iterating, if a source cannot be read to its end, naming the file and the record, if
            more than MOST of the records are unusable, or a document is longer than LONGEST.
    """
    return _check_lengths(_documents(source, field, split), source)


def _documents(source: str, field: str, split: str) -> Iterator[Document]:
    if source == "english":
        return _usable(_records([ENGLISH], "text"), "text", source)
    if source == "pydoc-topics":
        from pydoc_data.topics import topics

        return (_clean(topics[name]) for name in sorted(topics))
    if source.startswith("hf:"):
        return _usable(dataset_records(source, split), field, source)
    path = Path(source)
    if path.is_dir():
        return _usable(_records(_files(path), field), field, source)
    if not path.is_file():
        raise UserError(f"text {source} was not found; expected {EXPECTED}")
    if reader_of(path) is None:
        raise UserError(f"text {path} ends in {ending(path) or 'nothing'!r}; expected {EXPECTED}")
    documents = _usable(_records([path], field), field, source)
    return _cut(documents) if is_plain(path) else documents


def pieces(text: str, least: int = PIECE_CHARACTERS) -> Iterator[str]:
    """Cut ``text`` at blank lines into pieces of at least ``least`` characters (save the last)."""
    start = 0
    for blank in re.finditer(r"\n[ \t]*\n\s*", text):
        if blank.start() - start >= least:
            yield text[start : blank.start()]
            start = blank.end()
    if text[start:].strip():
        yield text[start:]


def _cut(documents: Iterator[Document]) -> Iterator[str]:
    for text in documents:
        yield from pieces(str(text))


def _records(files: list[Path], field: str) -> Iterator[Record]:
    for file in files:
        if reader := reader_of(file):
            yield from reader(file, field)


# The files of a directory.


def _files(folder: Path) -> list[Path]:
    """The files below ``folder`` that can be read, in the order of their paths.

    Raises:
        UserError: there are none, or a directory cannot be listed.
    """
    skipped: Counter[str] = Counter()
    files = sorted(_walk(folder, skipped, {folder.resolve()}))
    others = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
    if not files:
        holding = f" (it holds {others})" if others else ""
        raise UserError(f"text directory {folder} holds no {KINDS} file{holding}")
    if others:
        note(f"text {folder}: {len(files)} files; skipped {others}")
    return files


def _walk(folder: Path, skipped: Counter[str], seen: set[Path]) -> Iterator[Path]:
    """The files to read below ``folder``; counts the others by what they are.

    Links to directories are followed, and a directory that was ``seen`` is not entered again.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(
            f"text directory {folder} cannot be listed ({error.strerror}); expected to read it"
        ) from error
    for entry in entries:
        if entry.name.startswith("."):
            skipped["hidden"] += 1
        elif entry.is_dir():
            place = entry.resolve()
            if place in seen:
                skipped["linked twice"] += 1
                continue
            seen.add(place)
            yield from _walk(entry, skipped, seen)
        elif entry.is_file() and reader_of(entry):
            yield entry
        else:
            skipped[(ending(entry) or "without a suffix") if entry.is_file() else "no file"] += 1


# The text of a record.


def _usable(records: Iterator[Record], field: str, source: str) -> Iterator[Document]:
    """The documents in ``records``; those that hold none are counted, and skipped if few."""
    skipped = _Skipped(source)
    try:
        for record in records:
            skipped.read += 1
            try:
                document = _document(record, field)
            except UserError as error:
                # With nothing to compare it with, a record without the field tells of another.
                if skipped.count == skipped.read - 1 and not _is_null(record.fields, field):
                    raise
                skipped.add(error)
                continue
            yield document
    except GeneratorExit:  # no more is wanted
        skipped.report()
        raise
    skipped.check(0)
    skipped.report()


class _Skipped:
    """Counts the records of ``source`` that cannot be used.

    Attributes:
        read: records so far.
        count: of these, the skipped ones.
    """

    def __init__(self, source: str) -> None:
        self.read, self.count = 0, 0
        self._source, self._first = source, ""

    def add(self, problem: UserError) -> None:
        """Count a record; UserError if there are too many such."""
        self._first = self._first or str(problem)
        self.count += 1
        self.check(FEW)

    def check(self, few: int) -> None:
        """Raise UserError if more than ``few`` records and MOST of those read are skipped."""
        if self.count > max(few, MOST * self.read):
            raise UserError(
                f"{self.count:,} of {self.read:,} records read of text {self._source} cannot be "
                f"used (the first: {self._first}); expected at most {MOST:.0%} such, to be skipped"
            )

    def report(self) -> None:
        """Say how many were skipped, if any were."""
        if self.count:
            note(
                f"text {self._source}: skipped {self.count:,} of {self.read:,} records (the "
                f"first: {self._first})"
            )


def _is_null(fields: Any, field: str) -> bool:
    """Whether a record, or the text in it, is null."""
    return fields is None or (isinstance(fields, dict) and fields.get(field, ...) is None)


def _document(record: Record, field: str) -> Document:
    """The text or token ids in a field of ``record``; UserError names its place if unusable."""
    place, fields = record
    if not isinstance(fields, dict):
        raise UserError(f"text {place} holds {_kind(fields)}; expected one object")
    value: Any = fields.get(field)
    if is_conversation(value):
        messages: list[Message] = value
        return messages
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return _unpadded(value, fields.get(MASK), place)
    if not isinstance(value, str):
        kind = _kind(value) if field in fields else "missing"
        raise UserError(
            f"text {place}: field {field!r} is {kind}; expected text, messages or token ids "
            f"(fields: {', '.join(map(str, fields)) or 'none'}; see --text-field)"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"text {place}: field {field!r} holds half of a surrogate pair (character "
            f"{error.start}); expected Unicode text"
        ) from error
    return _clean(value)


def _kind(value: Any) -> str:
    return "null" if value is None else f"a {type(value).__name__}"


def _clean(text: str) -> str:
    """``text`` without a byte order mark before it, and with lines that end in ``\\n``."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _unpadded(ids: list[int], mask: Any, place: str) -> list[int]:
    """The ids where ``mask`` is 1; UserError if it is not a list of as many 0 and 1."""
    if mask is None:
        return ids
    if not isinstance(mask, list) or len(mask) != len(ids) or not set(mask) <= {0, 1}:
        raise UserError(
            f"text {place}: {MASK} is not a list of {len(ids)} zeros and ones; expected one for "
            "each token id"
        )
    return [token for token, counts in zip(ids, mask, strict=True) if counts]


def _check_lengths(documents: Iterator[Document], source: str) -> Iterator[Document]:
    for number, document in enumerate(documents, 1):
        if (length := _length(document)) > LONGEST:
            raise UserError(
                f"document {number} of text {source} has {length:,} characters or tokens; expected "
                f"at most {LONGEST:,}: cut it into several"
            )
        yield document


def _length(document: Document) -> int:
    """Its characters, or its tokens where it holds those."""
    if isinstance(document, str):
        return len(document)
    return sum(1 if isinstance(item, int) else len(item["content"]) for item in document)
