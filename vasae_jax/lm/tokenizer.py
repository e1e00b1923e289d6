"""A model's tokenizer: token ids of a text, and the string of each token."""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from vasae_jax.cache.vocab import Vocab
from vasae_jax.utils.errors import UserError, first_line

FILE = "tokenizer.json"


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of one model; made by :func:`make_tokenizer`.

    Attributes:
        backend: the ``tokenizers`` library's tokenizer, set to read special tokens as text.
        vocab_size: rows of the model's embedding.
        bos_id: beginning-of-sequence token, or None.
        eos_id: end-of-sequence token, or None.
        add_bos: whether the model expects bos_id before every text.
        prefix: put before every text that is not empty.
    """

    backend: tokenizers.Tokenizer
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    prefix: str = ""

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, without BOS or other special tokens.

        Text that spells a special token (``<|endoftext|>``) is encoded as plain text.
        """
        return self.backend.encode(self.prefix * bool(text) + text, add_special_tokens=False).ids

    def vocab(self) -> Vocab:
        """One string for each row of the embedding; rows without a token get a placeholder."""
        strings = {index: token for token, index in self.backend.get_vocab().items()}
        raw = tuple(strings.get(i, f"<|unused-{i}|>") for i in range(self.vocab_size))
        return Vocab(kind=_vocab_kind(self._description), raw=raw)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and the merges, the same for every file format."""
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
    """Set up ``backend`` for documents of any length and check it against the model.

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


def _vocab_kind(description: dict[str, Any]) -> str:
    """How the token strings spell bytes; see :class:`vasae_jax.cache.vocab.Vocab`."""
    parts = json.dumps([description.get("pre_tokenizer"), description.get("decoder")])
    if '"ByteLevel"' in parts:
        return "byte_level"
    normalizer = json.dumps(description.get("normalizer"), ensure_ascii=False)
    if '"Metaspace"' in parts or '"ByteFallback"' in parts or "\u2581" in normalizer:
        return "sentencepiece"
    return "plain"


def tokenizer_from_directory(
    directory: Path, model_config: dict[str, Any], vocab_size: int
) -> Tokenizer:
    """Read a Hugging Face directory's ``tokenizer.json``, or convert older files by transformers.

    Args:
        directory: Hugging Face directory.
        model_config: content of its ``config.json``.
        vocab_size: rows of the model's embedding.

    Raises:
        UserError: no tokenizer there, a corrupt one, or one larger than the embedding.
    """
    path = directory / FILE
    backend = _read(path) if path.is_file() else _convert(directory)
    settings = _settings(directory / "tokenizer_config.json")
    bos, eos = (_special_token(backend, settings, model_config, name) for name in ("bos", "eos"))
    template_bos = _template_bos(backend)
    add_bos = settings.get("add_bos_token")
    return make_tokenizer(
        backend,
        vocab_size,
        str(path if path.is_file() else directory),
        bos_id=template_bos if bos is None else bos,
        eos_id=eos,
        add_bos=add_bos if isinstance(add_bos, bool) else template_bos is not None,
    )


def _read(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{path} is not a tokenizer ({error}); expected a {FILE}") from error


def _convert(directory: Path) -> tokenizers.Tokenizer:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # whatever a tokenizer class or its missing dependency raises
        raise UserError(
            f"{directory} has no {FILE} and transformers cannot make one ({first_line(error)}); "
            f"expected {FILE}"
        ) from error
    if not isinstance(backend, tokenizers.Tokenizer):
        raise UserError(f"{directory} has only a slow tokenizer; expected {FILE}")
    return backend


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); expected tokenizer settings") from error
    return settings if isinstance(settings, dict) else {}


def _special_token(
    backend: tokenizers.Tokenizer, settings: dict[str, Any], config: dict[str, Any], name: str
) -> int | None:
    """Id of the bos or eos token: as the tokenizer's settings say, else the model's."""
    token = settings.get(f"{name}_token")
    if isinstance(token, dict):
        token = token.get("content")
    if isinstance(token, str):
        return backend.token_to_id(token)
    index = config.get(f"{name}_token_id")
    if isinstance(index, list) and index:
        index = index[0]
    return index if isinstance(index, int) else None


def _template_bos(backend: tokenizers.Tokenizer) -> int | None:
    """The token that the tokenizer's own template puts before every text, if it does."""
    with_special = backend.encode("a").ids
    plain = backend.encode("a", add_special_tokens=False).ids
    added = len(with_special) > len(plain) and with_special[:1] != plain[:1]
    return with_special[0] if added else None
