"""A model's tokenizer: text to token ids, and the vocabulary's strings."""

import functools
import hashlib
import json
from dataclasses import dataclass
from typing import Any

import tokenizers

from vasae_jax.cache.vocab import Vocab
from vasae_jax.system.errors import UserError


@dataclass(frozen=True)
class Tokenizer:
    """Tokens of one model; build it with :func:`make_tokenizer`.

    Attributes:
        backend: the ``tokenizers`` library's tokenizer, set to read special tokens as text.
        vocab_size: rows of the model's embedding.
        bos_id: beginning-of-sequence token, or None.
        eos_id: end-of-sequence token, or None.
        add_bos: whether the model's own tokenizer puts bos_id before every text.
        prefix: is put before every text that is not empty.
    """

    backend: tokenizers.Tokenizer
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    prefix: str = ""

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text`` alone: no special tokens are added.

        Text that spells a special token (``<|endoftext|>``) is encoded as the plain text
        that it is.
        """
        return self.backend.encode(self.prefix * bool(text) + text, add_special_tokens=False).ids

    def vocab(self) -> Vocab:
        """One string for each row of the embedding; rows without a token get a stand-in."""
        strings = {index: token for token, index in self.backend.get_vocab().items()}
        raw = tuple(strings.get(i, f"<|unused-{i}|>") for i in range(self.vocab_size))
        return Vocab(kind=_kind(self._description), raw=raw)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and the merges, the same from any file format."""
        model = self._description["model"]
        vocab = sorted((index, token) for token, index in self.backend.get_vocab().items())
        merges = [m.split(" ") if isinstance(m, str) else m for m in model.get("merges", [])]
        text = json.dumps({"vocab": vocab, "merges": merges}, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @functools.cached_property
    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(self.backend.to_str())
        return description


def make_tokenizer(
    backend: tokenizers.Tokenizer,
    vocab_size: int,
    where: str,
    *,
    bos_id: int | None,
    eos_id: int | None,
    add_bos: bool,
    prefix: str = "",
) -> Tokenizer:
    """Settle ``backend`` for documents of any length and check it against the model.

    Raises:
        UserError: an ordinary token has no row in the embedding, or there is no BOS to add.
    """
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    ids = backend.get_vocab(with_added_tokens=False).values()
    if max(ids, default=-1) >= vocab_size:
        raise UserError(
            f"{where} has token ids up to {max(ids)}; expected them below the {vocab_size} rows "
            "of the model's embedding"
        )
    for name, token in (("BOS", bos_id), ("EOS", eos_id)):
        if token is not None and not 0 <= token < vocab_size:
            raise UserError(f"{where} has {name} token {token}; expected it below {vocab_size}")
    if add_bos and bos_id is None:
        raise UserError(f"{where} wants a BOS token before each text but names none")
    return Tokenizer(backend, vocab_size, bos_id, eos_id, add_bos, prefix)


def _kind(description: dict[str, Any]) -> str:
    """Which spelling of bytes the token strings use; see :class:`vasae_jax.cache.vocab.Vocab`."""
    parts = json.dumps([description.get("pre_tokenizer"), description.get("decoder")])
    if '"ByteLevel"' in parts:
        return "byte_level"
    normalizer = json.dumps(description.get("normalizer"), ensure_ascii=False)
    if '"Metaspace"' in parts or '"ByteFallback"' in parts or "\u2581" in normalizer:
        return "sentencepiece"
    return "plain"
