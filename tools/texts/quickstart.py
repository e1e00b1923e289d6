"""Make the text that ships for the quickstart: vasae_jax/extract/english.jsonl.gz.

    python tools/texts/quickstart.py [--check]

The text is made of public-domain works out of packages with pinned digests, so it can be made
again; vasae_jax/extract/english.md says what they are and why they are in the public domain.
--check writes nothing and fails unless the file that ships has exactly this text.
"""

import argparse
import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from works import Record, alice, countries, moby_dick, speeches

from vasae_jax.extract.text import ENGLISH
from vasae_jax.utils.files import sha256_bytes, user_cache

CHAPTERS = (1, 8, 14, 15, 20, 21, 22, 26, 29, 35, 44, 60, 73, 118, 128)
"""Chapters of Moby-Dick of 700 to 3000 words, and none that calls people savages."""
YEARS = range(1962, 2018, 5)
"""Speeches; of each the first SPEECH_WORDS words, up to the end of a sentence."""
SPEECH_WORDS = 1200
COUNTRIES = 42
"""Countries: those with the most people."""


def documents(folder: Path) -> list[Record]:
    """All documents in a mixed order, so that the first rows have every kind."""
    straight = str.maketrans("‘’“”", "''\"\"")
    records = [record | {"text": record["text"].translate(straight)} for record in _read(folder)]
    return sorted(records, key=lambda record: sha256_bytes(record["title"].encode()))


def _read(folder: Path) -> Iterator[Record]:
    yield from alice(folder)
    yield from moby_dick(folder, CHAPTERS)
    yield from countries(folder, COUNTRIES)
    for speech in speeches(folder):
        if speech["title"].startswith(tuple(f"State of the Union, {year}:" for year in YEARS)):
            yield speech | {"text": _first_words(speech["text"])}


def _first_words(text: str) -> str:
    ends = [match.end() for match in re.finditer(r"[.!?](?= [A-Z])", text)]
    return text[: next(end for end in ends if len(text[:end].split()) >= SPEECH_WORDS)]


def write(records: list[Record], target: Any) -> None:
    """Write the records, compressed; the bytes depend on nothing but the records."""
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    with gzip.GzipFile("", "wb", compresslevel=9, fileobj=target, mtime=0) as file:
        file.write(lines.encode())


def main() -> None:
    """Make the text, or compare it with what ships."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare; write nothing")
    args = parser.parse_args()
    records = documents(user_cache() / "texts")
    if args.check:
        with gzip.open(ENGLISH, "rt", encoding="utf-8") as lines:
            same = [json.loads(line) for line in lines] == records
        raise SystemExit(0 if same else f"{ENGLISH} is not this text")
    with open(ENGLISH, "wb") as target:
        write(records, target)
    words = sum(len(record["text"].split()) for record in records)
    print(f"{ENGLISH}: {len(records)} documents, {words:,} words")


if __name__ == "__main__":
    main()
