"""Text that is odd is taken as it is; what is no text is refused in one sentence."""

import json

import lm_fixtures as fx
import pytest
import tokenizers

from vasae_jax.extract import read_documents
from vasae_jax.extract.windows import make_windows
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault

ODD = {
    "right to left": "שלום עולם, مرحبا بالعالم. " * 40,
    "combining": "e\u0301 a\u0323\u0302 \u200d👩\u200d🔬 " * 40,
    "controls": "a\x00b\x07c\x1b[31m\u2028d\u0085 " * 40,
    "a mark within": "some \ufefftext " * 40,
    "one long line": "word " * 50_000,
    "no letters": "\u200b\u200c" * 100,
}


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.Tokenizer.from_str(fx.trained_bpe())


@pytest.mark.parametrize("name", ODD)
def test_odd_text_is_kept_to_the_last_byte(tmp_path, tokenizer, name):
    file = tmp_path / "odd.jsonl"
    texts = [ODD[name], "a second document, to be held out"]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    read = read_documents(str(file))
    windows = make_windows(
        read, lambda text: tokenizer.encode(text).ids, 10**6, bos_id=None, heldout_share=0.5
    )
    assert tokenizer.decode(windows.tokens.tolist()) == "".join(texts)


def test_half_a_surrogate_pair_is_refused(tmp_path):
    file = tmp_path / "half.jsonl"
    file.write_text('{"text": "fine"}\n{"text": "not \\ud83d fine"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"half\.jsonl line 2: .* half of a surrogate pair \(.* 4"):
        list(read_documents(str(file)))


def test_a_record_that_nests_without_end_is_refused(tmp_path):
    file = tmp_path / "deep.jsonl"
    file.write_text('{"text": ' + "[" * 100_000 + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"deep\.jsonl line 1 is not JSON"):
        list(read_documents(str(file)))


def test_one_token_is_no_text(tokenizer):
    with pytest.raises(UserError, match="no document has 2 tokens"):
        make_windows(["a"], lambda text: tokenizer.encode(text).ids, 32, bos_id=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["long.jsonl", "long.txt"])
def test_a_line_of_100_megabytes_is_refused(tmp_path, name):
    line = "word " * 20_000_000
    text = line if name.endswith(".txt") else json.dumps({"text": line}) + "\n"
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"document 1 of .* has 100,000,000 char.* at most 16,777"):
        list(read_documents(str(tmp_path / name)))
