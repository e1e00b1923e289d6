"""The tokenizer that GGUF metadata describes: byte-level BPE, or SentencePiece's BPE."""

from collections.abc import Sequence
from typing import Any

import tokenizers
from gguf import Keys, TokenType
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from vasae_jax.lm.chat import template_from_gguf
from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.tokenizer import Tokenizer
from vasae_jax.utils.errors import UserError

SPACE = "\u2581"
"""How SentencePiece spells a space."""
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Word splitting of Llama 3's tokenizer.json, and of Qwen's, which differ in digits."""
_SPLITS = {"llama3": _WORDS % "{1,3}", "qwen2": _WORDS % ""}
_PRE_TOKENIZERS = {
    "gpt-2": "gpt2",
    "smollm": "smollm",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "qwen2": "qwen2",
    "olmo": "neox",
}
"""Word splitting by tokenizer.ggml.pre; OLMo has the tokenizer of GPT-NeoX."""
_PRE_OF_ARCHITECTURE = {"gpt2": "gpt-2", "gptneox": "olmo", "qwen2": "qwen2", "qwen3": "qwen2"}
"""Word splitting of architectures whose models all have the same, where the file lacks it."""
_NFC = ("qwen2", "neox")
"""Those that normalise text to NFC first, which the file does not say."""


def tokenizer_from_gguf(file: GgufFile, vocab_size: int) -> Tokenizer:
    """Build the tokenizer.

    Raises:
        UserError: the file has none, or one that cannot be rebuilt exactly from metadata
            (unknown word splitting, unigram or WordPiece models).
    """
    kind, architecture = file.get(Keys.Tokenizer.MODEL), file.get(Keys.General.ARCHITECTURE)
    pre: Any = file.get(Keys.Tokenizer.PRE) or _PRE_OF_ARCHITECTURE.get(str(architecture))
    if kind == "gpt2" and pre is None:
        raise UserError(
            f"{file.path} has no {Keys.Tokenizer.PRE}, and models of architecture {architecture} "
            f"split words in several ways; expected one of {', '.join(_PRE_TOKENIZERS)}, or the "
            "model's Hugging Face directory with tokenizer.json"
        )
    if kind not in ("gpt2", "llama") or (kind == "gpt2" and pre not in _PRE_TOKENIZERS):
        content = "no tokenizer" if kind is None else f"a tokenizer of kind {kind}, splitting {pre}"
        raise UserError(
            f"{file.path} has {content}, which cannot be rebuilt exactly from GGUF; expected "
            f"SentencePiece (llama), byte-level BPE (gpt2) with splitting "
            f"{', '.join(_PRE_TOKENIZERS)}, or the model's Hugging Face directory with "
            "tokenizer.json"
        )
    sentencepiece = kind == "llama"
    try:
        backend = _sentencepiece(file) if sentencepiece else _byte_level(file, _PRE_TOKENIZERS[pre])
    except UserError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{file.path} has tokens and merges that disagree ({error})") from error
    # What llama.cpp assumes where the file is silent, but for Gemma, which has never had a prefix.
    add_bos = _flag(file, Keys.Tokenizer.ADD_BOS, sentencepiece or _PRE_TOKENIZERS[pre] == "llama3")
    gemma = str(architecture).startswith("gemma")
    add_prefix = sentencepiece and _flag(file, Keys.Tokenizer.ADD_PREFIX, not gemma)
    bos_id, eos_id = file.get(Keys.Tokenizer.BOS_ID), file.get(Keys.Tokenizer.EOS_ID)
    # Before the text itself: a normalizer would put a space after every added token too.
    prefix = " " if add_prefix else ""
    chat = template_from_gguf(file, backend)
    tokenizer = Tokenizer(backend, vocab_size, bos_id, eos_id, add_bos, prefix, chat)
    return tokenizer.checked(str(file.path))


def _flag(file: GgufFile, key: str, default: bool) -> bool:
    value = file.get(key)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{file.path} has {key} {value!r}; expected true or false")
    return default if value is None else value


def _byte_level(file: GgufFile, pre: str) -> tokenizers.Tokenizer:
    """GPT-2's byte-level BPE with the word splitting ``pre``."""
    tokens, merges = file.get(Keys.Tokenizer.LIST), file.get(Keys.Tokenizer.MERGES)
    types = file.get(Keys.Tokenizer.TOKEN_TYPE)
    if not tokens or merges is None:
        raise UserError(f"{file.path} has a tokenizer without tokens and merges; expected both")
    if not isinstance(types, list) or len(types) != len(tokens):
        raise UserError(
            f"{file.path} has {len(tokens)} tokens and {Keys.Tokenizer.TOKEN_TYPE} of "
            f"{len(types) if isinstance(types, list) else types}; expected one type a token"
        )
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        # Byte-level pieces never hold a space, so the first one separates the two.
        merges=[(left, right) for left, _, right in (merge.partition(" ") for merge in merges)],
        ignore_merges=pre == "llama3",
    )
    backend = tokenizers.Tokenizer(model)
    if pre in _NFC:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _pre_tokenizer(pre)
    backend.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types, strict=True):
        if kind == TokenType.CONTROL:
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == TokenType.USER_DEFINED:
            backend.add_tokens([AddedToken(token, special=False, normalized=False)])
    return backend


def _pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    if pre in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, bytes_only])
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, words])
    return words


def _sentencepiece(file: GgufFile) -> tokenizers.Tokenizer:
    """SentencePiece's BPE (Gemma, Llama 2, Mistral 7B), without the space before a text.

    It merges, of all neighbours that join into a piece, those whose piece has the highest score.
    The ``tokenizers`` library merges by rank, so each piece becomes its merges, ordered by score.

    Raises:
        UserError: lists of tokens, scores and types of different lengths.
    """
    keys = (Keys.Tokenizer.LIST, Keys.Tokenizer.SCORES, Keys.Tokenizer.TOKEN_TYPE)
    tokens, scores, types = lists = [file.get(key) for key in keys]
    sizes = [len(part) if isinstance(part, list) else 0 for part in lists]
    if not sizes[0] or len(set(sizes)) > 1:
        raise UserError(
            f"{file.path} has {sizes[0]} tokens, {sizes[1]} scores and {sizes[2]} token types; "
            "expected one of each for every token"
        )
    unknown = file.get(Keys.Tokenizer.UNK_ID)
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=_merges(tokens, scores, types),
        unk_token=tokens[unknown] if isinstance(unknown, int) and unknown < sizes[0] else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    typed = list(zip(tokens, types, strict=True))
    control = [token for token, kind in typed if kind == TokenType.CONTROL]
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    # A user's token that spells spaces is matched after spaces became SPACE.
    defined = [token for token, kind in typed if kind == TokenType.USER_DEFINED]
    backend.add_tokens([AddedToken(t, special=False, normalized=SPACE in t) for t in defined])
    return backend


def _merges(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]
) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, those with the highest score first."""
    ids = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == TokenType.NORMAL
    }
    ranked = [
        (-scores[index], ids[token[:cut]], ids[token[cut:]], token[:cut], token[cut:])
        for token, index in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    return [(left, right) for *_, left, right in sorted(ranked)]
