"""SentencePiece's byte-pair tokenizer out of GGUF metadata: Gemma, Llama 2, Mistral 7B.

It merges, of all neighbours that join into a piece, those whose piece has the highest score.
The ``tokenizers`` library has merges by rank instead, so each piece becomes its merges, in the
order of the scores.
"""

from collections.abc import Sequence

import tokenizers
from gguf import Keys, TokenType
from tokenizers import AddedToken, decoders, models, normalizers

from vasae_jax.lm.gguf_file import GgufFile
from vasae_jax.system.errors import UserError

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
