"""What a cache keeps of its model besides rows: token strings, embeddings and the final norm."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vasae_jax.cache.manifest import EMBEDDING, FINAL_NORM, TOKENS, UNEMBEDDING, CachePlan, encode
from vasae_jax.cache.store import Store, write_all
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_array, sha256_bytes
from vasae_jax.utils.shown import escape

KINDS = ("byte_level", "sentencepiece", "plain")
NORM_KINDS = ("rmsnorm", "layernorm")
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
            raise UserError(f"vocabulary kind is {self.kind!r}; expected {' or '.join(KINDS)}")

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
    r"""``data`` as one line of text from which the bytes can be recovered.

    Valid UTF-8 is shown as text and a space as ``␣``. A backslash becomes ``\\``; control
    characters and bytes that are not UTF-8 become ``\xNN``; other characters that do not
    print (and U+2423 itself) become ``\uNNNN`` or ``\UNNNNNNNN``; no bytes at all are
    ``\(empty)``. Different bytes always have different forms: each escape has a fixed
    length and no other form contains a backslash.
    """
    if not data:
        return r"\(empty)"
    text = data.decode("utf-8", "surrogateescape")
    return "".join(_printable(character) for character in text)


def _printable(character: str) -> str:
    if character == " ":
        return "␣"
    if character == "\\":
        return r"\\"
    return character if character.isprintable() and character != "␣" else escape(character)


@functools.cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte-level alphabet: printable Latin-1 stands for itself, the rest from U+0100."""
    printable_bytes = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable_bytes]
    table = {chr(byte): byte for byte in printable_bytes}
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table


@dataclass(frozen=True)
class Vocabulary:
    """The embeddings, final norm and token strings of a model.

    Attributes:
        embedding: float32 [vocab_size, d_model], the input embeddings.
        unembedding: float32 [vocab_size, d_model], or None where it is the embedding.
        final_norm: ``{"kind", "eps", "weight", "bias"}``, the norm before the unembedding.
        vocab: the token strings.
    """

    embedding: np.ndarray
    unembedding: np.ndarray | None
    final_norm: Mapping[str, Any]
    vocab: Vocab

    def check(self, plan: CachePlan) -> None:
        """Raise UserError unless the vocabulary fits the plan and is finite."""
        shape = (plan.vocab_size, plan.d_model)
        if plan.tied != (self.unembedding is None):
            raise UserError(
                f"the plan has tied={plan.tied} and the vocabulary has "
                f"{'no' if self.unembedding is None else 'an'} unembedding; expected one if "
                "the model is untied, and only then"
            )
        for key, array in self.arrays().items():
            if array.shape != shape:
                raise UserError(f"{key} has shape {array.shape}; expected {shape}")
            finite = np.isfinite(array).all(axis=1)
            if not finite.all():
                row = int(finite.argmin())
                raise UserError(f"{key} is not finite in row {row}; expected numbers")
        check_tokens(self.vocab, plan.vocab_size)
        check_final_norm(self.final_norm, plan.d_model)

    def write(self, store: Store, plan: CachePlan) -> None:
        """Store the vocabulary, durable on return; raises UserError."""
        metadata, arrays = plan.vocab_metadata(), self.arrays()
        stored = {key: store.create_array(key, metadata) for key in arrays}
        what = f"cannot write {store.name('vocab')}"
        with store.errors(what, "a writable place with free space"):
            write_all((stored[key], 0, array) for key, array in arrays.items())
        for key, data in self.files().items():
            store.write(key, data)

    def arrays(self) -> dict[str, np.ndarray]:
        """The float32 arrays by their key in the cache."""
        arrays = {EMBEDDING: self.embedding, UNEMBEDDING: self.unembedding}
        return {k: np.asarray(a, np.float32) for k, a in arrays.items() if a is not None}

    def files(self) -> dict[str, bytes]:
        """The other files by their key in the cache."""
        norm = self.final_norm
        plain_norm = {
            "kind": str(norm["kind"]),
            "eps": float(norm["eps"]),
            "weight": np.asarray(norm["weight"], np.float64).tolist(),
            "bias": None if norm["bias"] is None else np.asarray(norm["bias"], np.float64).tolist(),
        }
        values = {FINAL_NORM: plain_norm, TOKENS: self.vocab.to_json()}
        return {key: encode(value, indent=None) for key, value in values.items()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of each part, by the name that the manifest uses."""
        digests = {key: sha256_array(array) for key, array in self.arrays().items()}
        digests |= {key: sha256_bytes(data) for key, data in self.files().items()}
        return {digest_name(key): digest for key, digest in digests.items()}


def digest_name(key: str) -> str:
    """``vocab/final_norm.json`` -> ``final_norm``."""
    return key.removeprefix("vocab/").removesuffix(".json")


def check_tokens(vocab: Vocab, vocab_size: int) -> None:
    """Raise UserError unless there is one token string for each embedding row."""
    if len(vocab.raw) != vocab_size:
        raise UserError(
            f"the vocabulary has {len(vocab.raw)} token strings; expected one for each of the "
            f"{vocab_size} embedding rows"
        )


def check_final_norm(norm: Mapping[str, Any], d_model: int) -> None:
    """Raise UserError unless ``norm`` describes a final norm of width ``d_model``."""
    kind, weight, bias = norm.get("kind"), norm.get("weight"), norm.get("bias")
    if kind not in NORM_KINDS:
        raise UserError(f"final norm has kind {kind!r}; expected one of {', '.join(NORM_KINDS)}")
    for name, values in (("weight", weight), ("bias", bias)):
        try:
            shape = np.asarray(values, np.float64).shape
        except (TypeError, ValueError):
            shape = None
        if shape != (d_model,) and not (name == "bias" and values is None):
            raise UserError(f"final norm has a {name} of shape {shape}; expected ({d_model},)")
