"""The strings of a vocabulary: the bytes that a token stands for, and how to print them."""

import functools
import re
from dataclasses import dataclass
from typing import Any

from vasae_jax.system.errors import UserError

KINDS = ("byte_level", "sentencepiece", "plain")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Vocab:
    """The token strings of a model, in the spelling of its tokenizer.

    Attributes:
        kind: how ``raw`` spells bytes. ``byte_level`` is GPT-2's table of one printable
            character a byte, ``sentencepiece`` writes a space as U+2581 and a single byte
            as ``<0x0A>``, ``plain`` is text.
        raw: one string per token id.
    """

    kind: str
    raw: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            kinds = ", ".join(KINDS)
            raise UserError(f"vocabulary has kind {self.kind!r}; expected one of {kinds}")

    def __len__(self) -> int:
        return len(self.raw)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that token id ``token`` stands for in text.

        A byte-level string with a character outside the table is an added token: its own
        UTF-8 spelling is returned.
        """
        raw = self.raw[token]
        if self.kind == "byte_level":
            table = _byte_of_character()
            if all(character in table for character in raw):
                return bytes(table[character] for character in raw)
        elif self.kind == "sentencepiece":
            piece = _BYTE_PIECE.fullmatch(raw)
            if piece:
                return bytes([int(piece[1], 16)])
            raw = raw.replace("\u2581", " ")
        return raw.encode("utf-8", "surrogatepass")

    def display(self, token: int) -> str:
        """A printable form of token id ``token``; see :func:`printable`."""
        return printable(self.token_bytes(token))

    def to_json(self) -> dict[str, Any]:
        """The content of a cache's ``vocab/tokens.json``."""
        return {"kind": self.kind, "raw": list(self.raw)}

    @classmethod
    def from_json(cls, value: Any) -> "Vocab":
        """The vocabulary that :meth:`to_json` gave; raises UserError for anything else."""
        if not isinstance(value, dict) or not isinstance(value.get("raw"), list):
            raise UserError(
                f"vocabulary is a {type(value).__name__} without a list of token strings; "
                'expected {"kind": .., "raw": [..]}'
            )
        wrong = [index for index, string in enumerate(value["raw"]) if not isinstance(string, str)]
        if wrong:
            raise UserError(f"vocabulary entry {wrong[0]} is not a string; expected only strings")
        return cls(kind=str(value.get("kind")), raw=tuple(value["raw"]))


def printable(data: bytes) -> str:
    r"""``data`` as one line of text from which the bytes can be told again.

    Valid UTF-8 is shown as text and a space as ``␣``. A backslash becomes ``\\``; control
    characters and bytes that are not UTF-8 become ``\xNN``; other characters that do not
    print (and U+2423 itself) become ``\uNNNN`` or ``\UNNNNNNNN``; no bytes at all are
    ``\(empty)``. Different bytes always have different forms: each escape has a fixed
    length and no other form contains a backslash.
    """
    if not data:
        return r"\(empty)"
    text = data.decode("utf-8", "surrogateescape")
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    code = ord(character)
    if character == " ":
        return "␣"
    if character == "\\":
        return r"\\"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, carried as a lone surrogate
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable() and character != "␣":
        return character
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte-level alphabet: printable Latin-1 stands for itself, the rest from U+0100."""
    own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in own]
    table = {chr(byte): byte for byte in own}
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table
