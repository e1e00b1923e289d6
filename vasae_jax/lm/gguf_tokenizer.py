"""The tokenizer that GGUF metadata describes."""

import tokenizers
from gguf import Keys, TokenType
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from vasae_jax.lm.gguf_file import GgufFile
from vasae_jax.lm.gguf_sentencepiece import prefix_of, sentencepiece_backend
from vasae_jax.lm.tokenizer import Tokenizer, make_tokenizer
from vasae_jax.system.errors import UserError

_WORDS_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3's tokenizer.json splits text into words, and Qwen's, which differ in digits."""
_SPLITS = {"llama3": _WORDS_SPLIT % "{1,3}", "qwen2": _WORDS_SPLIT % ""}

_PRE = {
    "gpt-2": "gpt2",
    "smollm": "smollm",
    "llama-bpe": "llama3",
    "llama3": "llama3",
    "qwen2": "qwen2",
    "olmo": "neox",
}
"""Word splitting by tokenizer.ggml.pre; OLMo has the tokenizer of GPT-NeoX."""
_COMPOSED = ("qwen2", "neox")
"""Those that compose characters first (NFC), which the file does not say."""


def tokenizer_from_gguf(file: GgufFile, vocab_size: int) -> Tokenizer:
    """Build the tokenizer.

    Raises:
        UserError: the file has none, or one that cannot be rebuilt exactly from metadata
            (unknown word splitting, unigram or WordPiece models).
    """
    kind, pre = file.get(Keys.Tokenizer.MODEL), file.get(Keys.Tokenizer.PRE) or "gpt-2"
    if kind not in ("gpt2", "llama") or (kind == "gpt2" and pre not in _PRE):
        found = "no tokenizer" if kind is None else f"a tokenizer of kind {kind}, splitting {pre}"
        raise UserError(
            f"{file.path} has {found}, which cannot be rebuilt exactly from GGUF; expected "
            f"SentencePiece (llama), byte-level BPE (gpt2) with splitting {', '.join(_PRE)}, or "
            "the model's Hugging Face directory with tokenizer.json"
        )
    try:
        backend = sentencepiece_backend(file) if kind == "llama" else _byte_level(file, _PRE[pre])
    except UserError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{file.path} has tokens and merges that disagree ({error})") from error
    add_bos = file.get(Keys.Tokenizer.ADD_BOS)
    return make_tokenizer(
        backend,
        vocab_size,
        str(file.path),
        bos_id=file.get(Keys.Tokenizer.BOS_ID),
        eos_id=file.get(Keys.Tokenizer.EOS_ID),
        add_bos=kind == "llama" if add_bos is None else bool(add_bos),  # as llama.cpp has it
        prefix=prefix_of(file) if kind == "llama" else "",
    )


def _byte_level(file: GgufFile, pre: str) -> tokenizers.Tokenizer:
    tokens, merges = file.get(Keys.Tokenizer.LIST), file.get(Keys.Tokenizer.MERGES)
    if not tokens or merges is None:
        raise UserError(f"{file.path} has a tokenizer without tokens and merges; expected both")
    return _backend(tokens, merges, file.get(Keys.Tokenizer.TOKEN_TYPE) or [], pre)


def _backend(
    tokens: list[str], merges: list[str], types: list[int], pre: str
) -> tokenizers.Tokenizer:
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[_pair(merge) for merge in merges],
        ignore_merges=pre == "llama3",
    )
    backend = tokenizers.Tokenizer(model)
    if pre in _COMPOSED:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _splitter(pre)
    backend.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types, strict=False):
        if kind == TokenType.CONTROL:
            backend.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == TokenType.USER_DEFINED:
            backend.add_tokens([AddedToken(token, special=False, normalized=False)])
    return backend


def _pair(merge: str) -> tuple[str, str]:
    """Byte-level pieces never hold a space, so the one space parts them."""
    first, _, second = merge.partition(" ")
    return first, second


def _splitter(pre: str) -> pre_tokenizers.PreTokenizer:
    if pre in _SPLITS:
        split = pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, bytes_only])
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, words])
    return words
