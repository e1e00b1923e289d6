"""SentencePiece out of GGUF against its own rule, and the library where it is installed."""

import io
from pydoc_data.topics import topics

import lm_fixtures as fx
import pytest
from gguf import TokenType
from gguf_fixtures import SPACE, small_pieces, write_gguf

from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.gguf_tokenizer import tokenizer_from_gguf

TEXT = "\n".join(topics[name] for name in ("if", "lambda", "strings"))
ODD = " naïve 東京 \U0001f600\tx   y  <|tag|>\n\n\nend "


@pytest.fixture(scope="module")
def pieces():
    return small_pieces()


def twin(text, tokens, scores, kinds, prefix):
    """Join the two neighbours whose piece scores highest, the leftmost first, to the end."""
    text = ((SPACE if prefix else "") + text).replace(" ", SPACE)
    user_defined = sorted(
        (t for t, k in zip(tokens, kinds, strict=True) if k == TokenType.USER_DEFINED),
        key=len,
        reverse=True,
    )
    score = {t: s for t, s, k in zip(tokens, scores, kinds, strict=True) if k == TokenType.NORMAL}
    symbols = []
    while text:
        match = next((piece for piece in user_defined if text.startswith(piece)), None)
        symbols.append((match or text[0], match is not None))
        text = text[len(symbols[-1][0]) :]
    while True:
        best, place = None, None
        for i in range(len(symbols) - 1):
            (a, frozen), (b, frozen_too) = symbols[i], symbols[i + 1]
            joined = None if frozen or frozen_too else score.get(a + b)
            if joined is not None and (best is None or joined > best):
                best, place = joined, i
        if place is None:
            break
        symbols[place : place + 2] = [(symbols[place][0] + symbols[place + 1][0], False)]
    ids = {token: index for index, token in enumerate(tokens)}
    out = []
    for piece, frozen in symbols:
        known = frozen or piece in score
        out += [ids[piece]] if known else [ids[f"<0x{b:02X}>"] for b in piece.encode()]
    return out


def opened(path, pieces, prefix):
    model = fx.random_model(fx.llama_config(num_hidden_layers=1, vocab_size=1024))
    file = write_gguf(model, path / "small.gguf", pieces=(*pieces, prefix))
    return tokenizer_from_gguf(GgufFile(file), 1024)


@pytest.mark.parametrize("prefix", [False, True])
def test_ids_are_those_of_the_rule(tmp_path, pieces, prefix):
    tokenizer = opened(tmp_path, pieces, prefix)
    for text in (TEXT[:2000], ODD, "", "a", "  two  spaces"):
        expected = twin(text, *pieces, prefix) if text else []
        assert tokenizer.encode(text) == expected
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos) == (1, 2, True)
    vocab = tokenizer.vocab()
    assert vocab.kind == "sentencepiece"
    spelled = b"".join(map(vocab.token_bytes, tokenizer.encode(ODD)))
    assert spelled == (b" " if prefix else b"") + ODD.encode()


def test_control_tokens_in_text_are_text(tmp_path, pieces):
    assert 1 not in opened(tmp_path, pieces, False).encode("a<s>b")


@pytest.mark.parametrize("prefix", [False, True])
def test_ids_are_those_of_sentencepiece_itself(tmp_path, prefix):
    """A model that the library trained and saved, by its own pieces, scores and kinds."""
    library = pytest.importorskip("sentencepiece")
    model, lines = io.BytesIO(), TEXT.split("\n")
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=600, model_type="bpe",
        byte_fallback=True, split_digits=True, allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False, normalization_rule_name="identity",
        add_dummy_prefix=prefix, user_defined_symbols=["<|tag|>", "\n\n"], minloglevel=2,
    )  # fmt: skip
    processor = library.SentencePieceProcessor(model_proto=model.getvalue())
    size = processor.get_piece_size()
    kinds = [
        TokenType.UNKNOWN if processor.is_unknown(i)
        else TokenType.CONTROL if processor.is_control(i)
        else TokenType.BYTE if processor.is_byte(i)
        else TokenType.USER_DEFINED if processor.id_to_piece(i) in ("<|tag|>", "\n\n")
        else TokenType.NORMAL
        for i in range(size)
    ]  # fmt: skip
    pieces = (
        [processor.id_to_piece(i) for i in range(size)],
        [processor.get_score(i) for i in range(size)],
        [int(kind) for kind in kinds],
    )
    tokenizer = opened(tmp_path, pieces, prefix)
    for text in (TEXT, ODD, "  two  spaces"):
        assert tokenizer.encode(text) == processor.encode(text)


def test_a_space_is_put_before_the_text_after_a_special_token_as_well(tmp_path, pieces):
    """As llama.cpp does: before every stretch of text, and never before a special token."""
    tokenizer = opened(tmp_path, pieces, True)
    hello, more = tokenizer.encode("hello"), tokenizer.encode("more")
    assert tokenizer.encode("<s>hello</s><s>more", special=True) == [1, *hello, 2, 1, *more]
    assert tokenizer.encode("hello</s>", special=True) == [*hello, 2]
