"""The byte-level BPE tokenizer that GGUF metadata describes."""

import tokenizers
from gguf import Keys, TokenType
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from vasae_jax.lm.gguf_file import GgufFile
from vasae_jax.lm.tokenizer import Tokenizer, make_tokenizer
from vasae_jax.system.errors import UserError

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3's tokenizer.json splits text into words."""

_PRE = {"gpt-2": "gpt2", "smollm": "smollm", "llama-bpe": "llama3", "llama3": "llama3"}
"""Word splitting by tokenizer.ggml.pre."""


def tokenizer_from_gguf(file: GgufFile, vocab_size: int) -> Tokenizer:
    """Build the tokenizer.

    Raises:
        UserError: the file has none, or one that cannot be rebuilt exactly from metadata
            (sentencepiece, unknown word splitting).
    """
    kind, pre = file.get(Keys.Tokenizer.MODEL), file.get(Keys.Tokenizer.PRE) or "gpt-2"
    if kind != "gpt2" or pre not in _PRE:
        found = "no tokenizer" if kind is None else f"a tokenizer of kind {kind}, splitting {pre}"
        raise UserError(
            f"{file.path} has {found}, which cannot be rebuilt exactly from GGUF; expected "
            f"byte-level BPE (gpt2) with splitting {', '.join(_PRE)}, or the model's "
            "Hugging Face directory with tokenizer.json"
        )
    tokens, merges = file.get(Keys.Tokenizer.LIST), file.get(Keys.Tokenizer.MERGES)
    if not tokens or merges is None:
        raise UserError(f"{file.path} has a tokenizer without tokens and merges; expected both")
    bos = file.get(Keys.Tokenizer.BOS_ID)
    types = file.get(Keys.Tokenizer.TOKEN_TYPE) or []
    try:
        backend = _backend(tokens, merges, types, _PRE[pre])
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{file.path} has tokens and merges that disagree ({error})") from error
    return make_tokenizer(
        backend,
        vocab_size,
        str(file.path),
        bos_id=bos,
        eos_id=file.get(Keys.Tokenizer.EOS_ID),
        add_bos=bool(file.get(Keys.Tokenizer.ADD_BOS)),
    )


def _backend(
    tokens: list[str], merges: list[str], types: list[int], pre: str
) -> tokenizers.Tokenizer:
    model = models.BPE(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=[_pair(merge) for merge in merges],
        ignore_merges=pre == "llama3",
    )
    backend = tokenizers.Tokenizer(model)
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
    if pre == "llama3":
        split = pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), behavior="isolated")
        bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        return pre_tokenizers.Sequence([split, bytes_only])
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, words])
    return words
