"""What README.md, CONTRIBUTING.md and docs/*.md tell people to type."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
SITE = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))
PAGES = ("README.md", "CONTRIBUTING.md", *SITE)


@dataclass(frozen=True)
class Typed:
    """One thing to type."""

    page: str
    kind: str
    """``sh``: a command. ``python``: a block of code. ``prose``: a part of a sentence."""
    text: str


def typed(*kinds: str) -> list[Typed]:
    """All of some kinds, in the order of the pages."""
    return [
        Typed(page, found, text)
        for page in PAGES
        for found, text in _read((ROOT / page).read_text(encoding="utf-8"))
        if found in kinds
    ]


def _read(markdown: str) -> Iterator[tuple[str, str]]:
    """Commands are indented, or fenced as ``sh``; all else that is no prose is fenced."""
    for token in _tokens(markdown):
        if token.type == "code_block" or token.info == "sh":
            yield from (("sh", command) for command in _commands(token.content))
        elif token.info == "python":
            yield "python", token.content
        elif token.type == "fence":
            yield from (("prose", part) for part in re.findall(r'"(vasae [^"]*)"', token.content))
        for child in token.children or []:
            if child.type == "code_inline":
                yield "prose", child.content


def _commands(block: str) -> list[str]:
    """Each command in one line, without comments; a loop is one command."""
    joined = block.replace("\\\n", " ")
    joined = re.sub(r"for .*?\ndone", lambda loop: loop[0].replace("\n", " "), joined, flags=re.S)
    lines = [re.sub(r"(^|\s+)#.*", "", line) for line in joined.splitlines()]
    return [" ".join(line.split()) for line in lines if line.strip()]


def ours(command: str) -> list[list[str]]:
    """The command lines of this project within a command: of ``vasae``, or of a file in tools/."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    found: list[list[str]] = []
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("&|;"):
            words = []
        elif " " in word and "vasae " in word:  # a command that another one is given
            found += ours(word[word.index("vasae ") :])
        elif words:
            words.append(word)
        elif word.split("/")[-1] == "vasae" or re.fullmatch(r"tools/\S+\.py", word):
            words = [word.removeprefix(".venv/bin/")]
            found.append(words)
    return found


def links(page: str) -> list[str]:
    """Where a page's links and pictures lead, within the tree."""
    found = []
    for token in _tokens((ROOT / page).read_text(encoding="utf-8")):
        for child in token.children or []:
            target = str(child.attrGet("href") or child.attrGet("src") or "")
            found += [target] if target and "://" not in target else []
    return found


def anchors(page: Path) -> set[str]:
    """What links may say of a page behind ``#``."""
    tokens = _tokens(page.read_text(encoding="utf-8"))
    heads = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", head.lower())) for head in heads}


def _tokens(markdown: str) -> list[Token]:
    return MarkdownIt().enable("table").parse(markdown)
