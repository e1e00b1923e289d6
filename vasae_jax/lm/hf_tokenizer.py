"""The tokenizer of a Hugging Face directory."""

import json
from pathlib import Path
from typing import Any

import tokenizers

from vasae_jax.lm.tokenizer import Tokenizer, make_tokenizer
from vasae_jax.system.errors import UserError

FILE = "tokenizer.json"


def tokenizer_from_directory(
    directory: Path, model_config: dict[str, Any], vocab_size: int
) -> Tokenizer:
    """Read ``tokenizer.json``, or convert older files through transformers.

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
    eos = _special(backend, settings, model_config, "eos")
    bos, start = _special(backend, settings, model_config, "bos"), _added_first(backend)
    add_bos = settings.get("add_bos_token")
    if not isinstance(add_bos, bool):
        add_bos = start is not None
    where = str(path if path.is_file() else directory)
    bos = start if bos is None else bos
    return make_tokenizer(backend, vocab_size, where, bos_id=bos, eos_id=eos, add_bos=add_bos)


def _read(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise UserError(
            f"{path} is not a tokenizer ({error}); expected a tokenizer.json"
        ) from error


def _convert(directory: Path) -> tokenizers.Tokenizer:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # whatever a tokenizer class or its missing dependency raises
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{directory} has no {FILE} and transformers cannot make one ({reason}); "
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


def _special(
    backend: tokenizers.Tokenizer, settings: dict[str, Any], config: dict[str, Any], which: str
) -> int | None:
    """Id of the bos or eos token: the tokenizer's word counts before the model's."""
    token = settings.get(f"{which}_token")
    if isinstance(token, dict):
        token = token.get("content")
    if isinstance(token, str):
        return backend.token_to_id(token)
    index = config.get(f"{which}_token_id")
    if isinstance(index, list) and index:
        index = index[0]
    return index if isinstance(index, int) else None


def _added_first(backend: tokenizers.Tokenizer) -> int | None:
    """The token that the tokenizer itself puts before every text, if it does."""
    added = backend.encode("a").ids
    plain = backend.encode("a", add_special_tokens=False).ids
    return added[0] if len(added) > len(plain) and added[:1] != plain[:1] else None
