"""A model's tokenizer: token ids of a text, and the string of each token."""

import functools
import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import pre_tokenizers

from vasae_jax.cache.vocab import Vocab
from vasae_jax.lm.chat import ChatTemplate, template_from_directory
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.files import path_inside
from vasae_jax.utils.read_json import read_json_object
from vasae_jax.utils.streams import note

FILE = "tokenizer.json"
_HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which UTF-8 has no bytes for."""


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of one model.

    Attributes:
        backend: the ``tokenizers`` library's tokenizer, set to read special tokens as text.
        vocab_size: rows of the model's embedding.
        bos_id: beginning-of-sequence token, or None.
        eos_id: end-of-sequence token, or None.
        add_bos: whether the model expects bos_id before every text.
        prefix: put before every text that is not empty, and before that after a special token.
        chat: the model's chat template, or None.
    """

    backend: tokenizers.Tokenizer
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    prefix: str = ""
    chat: ChatTemplate | None = None

    def checked(self, where: str) -> "Tokenizer":
        """Itself, set up for documents of any length and checked against the model.

        Raises:
            UserError: ``where`` has an ordinary token without a row in the embedding, or no BOS to
                add.
        """
        _clear_state(self.backend)
        self.backend.encode_special_tokens = True
        size, ids = self.vocab_size, self.backend.get_vocab(with_added_tokens=False).values()
        if max(ids, default=-1) >= size:
            raise UserError(
                f"{where} has token ids up to {max(ids)}; expected them below the {size} rows "
                "of the model's embedding"
            )
        for name, token in (("BOS", self.bos_id), ("EOS", self.eos_id)):
            if token is not None and not 0 <= token < size:
                raise UserError(f"{where} has {name} token {token}; expected it below {size}")
        if self.add_bos and self.bos_id is None:
            raise UserError(f"{where} wants a BOS token before each text but names none")
        return self

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of ``text``, without BOS or other special tokens that it does not spell.

        Args:
            text: any text.
            special: whether special tokens that it spells (``<|endoftext|>``) are these tokens;
                otherwise they are plain text.

        Raises:
            UserError: half of a surrogate pair, which is no text; or a token without a row in the
                embedding, such as an added token.
        """
        if _HALF.search(text):
            raise UserError(
                f"the text {text[:60]!a} has half of a surrogate pair, as an argument has that "
                "is not UTF-8; expected UTF-8"
            )
        parts = self.split_special(text) if special else [text]
        parts[::2] = [self.prefix * bool(part) + part for part in parts[::2]]
        self.backend.encode_special_tokens = not special
        ids = self.backend.encode("".join(parts), add_special_tokens=False).ids
        if max(ids, default=-1) >= self.vocab_size:
            token = next(index for index in ids if index >= self.vocab_size)
            raise UserError(
                f"token {self.backend.id_to_token(token)!r} has id {token} and the embedding has "
                f"{self.vocab_size} rows; expected none such in the text, which begins "
                f"{text[:60]!r}"
            )
        return ids

    def split_special(self, text: str) -> list[str]:
        """``text`` cut at the special tokens that it spells, which are at the odd places."""
        return self._special.split(text)

    @functools.cached_property
    def _special(self) -> re.Pattern[str]:
        """Finds the special tokens; where one begins another, the longer one."""
        tokens = self.backend.get_added_tokens_decoder().values()
        strings = sorted((t.content for t in tokens if t.special and t.content), key=len)
        return re.compile(f"({'|'.join(map(re.escape, reversed(strings))) or '(?!)'})")

    def vocab(self) -> Vocab:
        """One string for each row of the embedding; rows without a token get a placeholder."""
        strings = {index: token for token, index in self.backend.get_vocab().items()}
        kind = _vocab_kind(self._description)
        if kind == "byte_level":
            strings |= self._misread_tokens()
        raw = tuple(strings.get(i, f"<|unused-{i}|>") for i in range(self.vocab_size))
        return Vocab(kind, raw)

    def _misread_tokens(self) -> dict[int, str]:
        """Added tokens whose text would be read as byte letters, respelled in byte letters.

        Added tokens are plain text. One that merges make too stands for bytes, as it did before.
        """
        added = {i: token.content for i, token in self.backend.get_added_tokens_decoder().items()}
        misread = {
            index: _in_byte_letters(text)
            for index, text in added.items()
            if Vocab("byte_level", (text,)).token_bytes(0) != text.encode()
        }
        merged = {"".join(pair) for pair in self._merges} if misread else set()
        return {index: text for index, text in misread.items() if added[index] not in merged}

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the vocabulary and the merges, the same for every file format."""
        vocab = sorted((index, token) for token, index in self.backend.get_vocab().items())
        text = json.dumps({"vocab": vocab, "merges": self._merges}, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def _merges(self) -> list[list[str]]:
        merges = self._description["model"].get("merges", [])
        return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]

    @functools.cached_property
    def _description(self) -> dict[str, Any]:
        description: dict[str, Any] = json.loads(self.backend.to_str())
        return description


def _clear_state(backend: tokenizers.Tokenizer) -> None:
    """Turn off what a file may have left on: truncation, padding and random merges."""
    backend.no_truncation()
    backend.no_padding()
    if getattr(backend.model, "dropout", None) is not None:
        backend.model.dropout = None


def _in_byte_letters(text: str) -> str:
    """The UTF-8 bytes of ``text`` in GPT-2's alphabet of one printable character a byte."""
    spell = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return "".join(spelled for spelled, _ in spell.pre_tokenize_str(text))


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

    Whether texts begin with BOS, and which token that is, is what the tokenizer's template does,
    as in transformers; a different ``add_bos_token`` in the settings is reported on stderr.

    Args:
        directory: Hugging Face directory.
        model_config: content of its ``config.json``.
        vocab_size: rows of the model's embedding.

    Raises:
        UserError: no tokenizer there, a corrupt one, or one larger than the embedding.
    """
    path = directory / FILE
    backend = _read(path) if path.is_file() else _convert(directory)
    file = directory / "tokenizer_config.json"
    settings = read_json_object(file, "tokenizer settings") if file.is_file() else {}
    bos, eos = (_special_token(backend, settings, model_config, name) for name in ("bos", "eos"))
    _clear_state(backend)
    template_bos = _template_bos(backend)
    add_bos, where = template_bos is not None, str(path if path.is_file() else directory)
    if settings.get("add_bos_token", add_bos) is not add_bos:
        adds = "adds a BOS token" if add_bos else "adds no BOS token"
        note(
            f"{where}: its template {adds}, which is followed, and add_bos_token in "
            f"tokenizer_config.json is {settings['add_bos_token']}"
        )
    bos = bos if template_bos is None else template_bos
    ids = {"bos_token": bos, "eos_token": eos}
    strings = {name: backend.id_to_token(i) for name, i in ids.items() if i is not None}
    tokens = {name: token for name, token in strings.items() if token is not None}
    chat = template_from_directory(directory, settings, tokens)
    return Tokenizer(backend, vocab_size, bos, eos, add_bos, chat=chat).checked(where)


def _read(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_buffer(path.read_bytes())  # its paths are UTF-8 alone
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{path} is not a tokenizer ({error}); expected a {FILE}") from error


def _convert(directory: Path) -> tokenizers.Tokenizer:
    from transformers import AutoTokenizer

    _refuse_other_files(directory)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # whatever a tokenizer class or its missing dependency raises
        raise UserError(
            f"{directory} has no {FILE} and transformers cannot make one ({first_line(error)}); "
            f"expected {FILE}"
        ) from error
    if not isinstance(backend, tokenizers.Tokenizer):
        raise UserError(f"{directory} has only a slow tokenizer; expected {FILE}")
    return backend


def _refuse_other_files(directory: Path) -> None:
    """Raise UserError where the settings name a file elsewhere, which transformers would read."""
    file = directory / "tokenizer_config.json"
    settings = read_json_object(file, "tokenizer settings") if file.is_file() else {}
    for key, name in settings.items():
        # Many have left behind paths of the machine that they were made on.
        if key.endswith("_file") and isinstance(name, str) and os.path.isfile(name):
            path_inside(directory, name, file)


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
