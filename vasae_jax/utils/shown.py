"""Text that others wrote, as it is shown: what deceives an eye or a program becomes an escape.

Names of runs and models, sentences, token strings and paths may hold characters that move a
terminal's cursor, turn a line around, begin another line, or that no encoding has; and characters
that Markdown or a spreadsheet takes for more than text. Tables, cards, figures and CSV show such
text through these functions. JSON keeps it as it is.
"""

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

MARKUP = frozenset("\\`*_{}[]<>#|&~$@:!")
"""What Markdown, of GitHub or of the hub, may take for markup within a line: raw HTML, links and
addresses, character references, emphasis, mathematics, mentions, cells of a table."""
FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the start of a formula; the last four are the same, full-width."""


def shown(text: str) -> str:
    r"""``text`` as one line in which everything is visible.

    Control characters become ``\xNN``, and so do bytes of a path that are not UTF-8; overrides of
    the direction of writing, other format characters, ends of lines and lone surrogates become
    ``\uNNNN`` or ``\UNNNNNNNN``. Spaces of any width stay.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character.isprintable() or unicodedata.category(character) == "Zs"
        else escape(character)
        for character in text
    )


def escape(character: str) -> str:
    r"""``\xNN``, ``\uNNNN`` or ``\UNNNNNNNN``; of a byte carried as a surrogate, that byte's."""
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def markdown(text: str) -> str:
    """``text`` as :func:`shown`, to stand within a line or a cell of Markdown and mean itself."""
    escaped = "".join(f"\\{c}" if c in MARKUP else c for c in shown(text))
    return escaped.replace("www.", "www\\.")  # else an address, to GitHub


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV; text is as :func:`shown`, with ``'`` before what would be a formula."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(map(_cell, row) for row in rows)
    return out.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = shown(value)
    return f"'{text}" if text.lstrip().startswith(FORMULAS) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
