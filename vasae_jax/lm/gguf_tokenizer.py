"""The tokenizer that GGUF metadata describes."""

from collections.abc import Sequence

import tokenizers
from gguf import Keys, TokenType
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.tokenizer import Tokenizer, make_tokenizer
from vasae_jax.utils.errors import UserError

# SentencePiece's byte-pair tokenizer out of GGUF metadata: Gemma, Llama 2, Mistral 7B.
#
# It merges, of all neighbours that join into a piece, those whose piece has the highest score.
# The ``tokenizers`` library has merges by rank instead, so each piece becomes its merges, in the
# order of the scores.


SPACE = "\u2581"
"""How pieces spell a space."""


def sentencepiece_backend(file: GgufFile) -> tokenizers.Tokenizer:
    """The tokenizer of a file whose tokenizer.ggml.model is llama, less the space before a text.

    Raises:
        UserError: tokens, scores and kinds that do not belong to one another.
    """
    tokens, scores = file.get(Keys.Tokenizer.LIST), file.get(Keys.Tokenizer.SCORES)
    kinds = file.get(Keys.Tokenizer.TOKEN_TYPE)
    sizes = [len(part) if isinstance(part, list) else 0 for part in (tokens, scores, kinds)]
    if not sizes[0] or len(set(sizes)) > 1:
        raise UserError(
            f"{file.path} has {sizes[0]} tokens, {sizes[1]} scores and {sizes[2]} kinds of tokens; "
            "expected one of each for every token"
        )
    unknown = file.get(Keys.Tokenizer.UNK_ID)
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges_of(tokens, scores, kinds),
        unk_token=tokens[unknown] if isinstance(unknown, int) and unknown < sizes[0] else None,
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    _add(backend, tokens, kinds)
    return backend


def prefix_of(file: GgufFile) -> str:
    """What such a tokenizer puts before a text: a space, unless the file says that it does not.

    It is put before the text itself, not by a normalizer, which would put one after each token
    that is found before the rest is merged.
    """
    return "" if file.get(Keys.Tokenizer.ADD_PREFIX) is False else " "


def merges_of(
    tokens: Sequence[str], scores: Sequence[float], kinds: Sequence[int]
) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, those with the highest score first."""
    ids = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == TokenType.NORMAL
    }
    found = [
        (-scores[index], ids[token[:cut]], ids[token[cut:]], token[:cut], token[cut:])
        for token, index in ids.items()
        for cut in range(1, len(token))
        if token[:cut] in ids and token[cut:] in ids
    ]
    return [(left, right) for *_, left, right in sorted(found)]


def _add(backend: tokenizers.Tokenizer, tokens: Sequence[str], kinds: Sequence[int]) -> None:
    """Tokens that are found before the rest is merged; those with spaces in text with spaces."""
    control, own = [], []
    for token, kind in zip(tokens, kinds, strict=True):
        if kind == TokenType.CONTROL:
            control.append(AddedToken(token, special=True, normalized=False))
        elif kind == TokenType.USER_DEFINED:
            own.append(AddedToken(token, special=False, normalized=SPACE in token))
    backend.add_special_tokens(control)
    backend.add_tokens(own)


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
