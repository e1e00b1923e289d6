"""Tokenizers from both kinds of file: the same ids as the source, specials as text."""

import json
import os
from pydoc_data.topics import topics

import lm_fixtures as fx
import pytest
import tokenizers
import transformers
from gguf_fixtures import small_pieces, write_gguf
from tokenizers import models

from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.gguf_tokenizer import tokenizer_from_gguf
from vasae_jax.lm.tokenizer import Tokenizer, tokenizer_from_directory
from vasae_jax.utils.errors import UserError

TEXT = "\n".join(topics[name] for name in ("if", "lambda", "strings")) + " naïve 東京 \U0001f600"


@pytest.fixture
def directory(tmp_path):
    fx.write_tokenizer(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def gguf_path(tmp_path_factory):
    model = fx.random_model(fx.gpt2_config(n_layer=1))
    return write_gguf(model, tmp_path_factory.mktemp("gguf") / "small.gguf")


def test_directory_gives_the_ids_of_its_file(directory):
    tokenizer = tokenizer_from_directory(directory, {}, fx.VOCAB)
    reference = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    ids = tokenizer.encode(TEXT)
    assert ids == reference.encode(TEXT).ids
    assert b"".join(map(tokenizer.vocab().token_bytes, ids)) == TEXT.encode()
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.add_bos) == (0, 0, False)


def test_bos_of_the_template_is_reported_but_not_added(tmp_path):
    fx.write_tokenizer(tmp_path, add_bos=True)
    tokenizer = tokenizer_from_directory(tmp_path, {}, fx.VOCAB)
    assert (tokenizer.bos_id, tokenizer.add_bos) == (0, True)
    assert 0 not in tokenizer.encode("some text")


def test_special_tokens_in_text_are_text(directory, gguf_path):
    for tokenizer in (
        tokenizer_from_directory(directory, {}, fx.VOCAB),
        tokenizer_from_gguf(GgufFile(gguf_path), fx.VOCAB),
    ):
        ids = tokenizer.encode(f"a{fx.BOS}b")
        assert 0 not in ids
        assert b"".join(map(tokenizer.vocab().token_bytes, ids)) == f"a{fx.BOS}b".encode()


def test_gguf_gives_the_same_ids_and_digest_as_the_directory(directory, gguf_path):
    from_directory = tokenizer_from_directory(directory, {}, fx.VOCAB)
    from_gguf = tokenizer_from_gguf(GgufFile(gguf_path), fx.VOCAB)
    assert from_directory.encode(TEXT) == from_gguf.encode(TEXT)
    assert from_directory.digest == from_gguf.digest
    assert from_directory.vocab() == from_gguf.vocab()
    assert (from_gguf.bos_id, from_gguf.eos_id, from_gguf.add_bos) == (0, 0, False)


def test_digest_changes_with_a_merge(directory):
    from_directory = tokenizer_from_directory(directory, {}, fx.VOCAB)
    description = json.loads(fx.trained_bpe())
    description["model"]["merges"].pop()
    backend = tokenizers.Tokenizer.from_str(json.dumps(description))
    other = Tokenizer(backend, fx.VOCAB, 0, 0, False).checked("x")
    assert other.digest != from_directory.digest


def test_vocab_is_padded_to_the_embedding(directory):
    vocab = tokenizer_from_directory(directory, {}, fx.VOCAB + 2).vocab()
    assert len(vocab) == fx.VOCAB + 2
    assert vocab.kind == "byte_level"
    assert vocab.raw[-1] == f"<|unused-{fx.VOCAB + 1}|>"
    assert vocab.display(0) == fx.BOS


def test_token_of_the_model_config_is_used_where_the_tokenizer_names_none(directory):
    (directory / "tokenizer_config.json").unlink()
    tokenizer = tokenizer_from_directory(
        directory, {"bos_token_id": 5, "eos_token_id": [7, 8]}, 384
    )
    assert (tokenizer.bos_id, tokenizer.eos_id) == (5, 7)


def test_vocab_and_merges_files_are_converted(directory):
    """The older layout of GPT-2, through transformers."""
    description = json.loads(fx.trained_bpe())["model"]
    expected = tokenizer_from_directory(directory, {}, fx.VOCAB)
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.json").write_text(json.dumps(description["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in description["merges"])
    (directory / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": fx.BOS, "eos_token": fx.BOS}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (directory / "config.json").write_text(json.dumps({"model_type": "gpt2"}), encoding="utf-8")
    converted = tokenizer_from_directory(directory, {}, fx.VOCAB)
    assert converted.encode(TEXT) == expected.encode(TEXT)


def test_sentencepiece_kind_is_recognised():
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "▁": 1}, [], byte_fallback=True))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer = Tokenizer(backend, 2, None, None, False).checked("x")
    assert tokenizer.vocab().kind == "sentencepiece"


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe", "gpt-2", "qwen2"])
def test_word_splitting_of_gguf(tmp_path, pre):
    """Digits: one by one, by threes from the left, or the whole number."""
    model = fx.random_model(fx.gpt2_config(n_layer=1))
    path = write_gguf(model, tmp_path / "small.gguf", pre=pre)
    backend = tokenizer_from_gguf(GgufFile(path), fx.VOCAB).backend
    words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str("it's   12345 x")]
    assert (
        words
        == {
            "smollm": ["it", "'s", "ĠĠĠ", "1", "2", "3", "4", "5", "Ġx"],
            "llama-bpe": ["it", "'s", "ĠĠ", "Ġ", "123", "45", "Ġx"],
            "gpt-2": ["it", "'s", "ĠĠ", "Ġ12345", "Ġx"],
            "qwen2": ["it", "'s", "ĠĠ", "Ġ", "1", "2", "3", "4", "5", "Ġx"],
        }[pre]
    )


def test_llama3_splitting_equals_transformers(tmp_path):
    path = write_gguf(
        fx.random_model(fx.llama_config(num_hidden_layers=1)), tmp_path / "x.gguf", pre="llama-bpe"
    )
    ours = tokenizer_from_gguf(GgufFile(path), fx.VOCAB)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file="x.gguf")
    assert ours.encode(TEXT) == reference.encode(TEXT, add_special_tokens=False)


def test_unknown_kinds_and_splitting_point_to_the_directory_form(tmp_path):
    model = fx.random_model(fx.gpt2_config(n_layer=1))
    odd = write_gguf(model, tmp_path / "odd.gguf", pre="odd")
    with pytest.raises(UserError, match=r"gpt2.* odd"):
        tokenizer_from_gguf(GgufFile(odd), fx.VOCAB)


@pytest.mark.parametrize("pre", ["qwen2", "olmo"])
def test_characters_are_composed_where_the_models_own_tokenizer_does_so(tmp_path, pre):
    """Qwen's and GPT-NeoX's tokenizer.json begin with NFC, which no file of theirs says."""
    model = fx.random_model(fx.gpt2_config(n_layer=1))
    backend = tokenizer_from_gguf(
        GgufFile(write_gguf(model, tmp_path / "small.gguf", pre=pre)), fx.VOCAB
    )
    assert backend.encode("nai\u0308ve") == backend.encode("na\u00efve")


def edit_json(file, **changes):
    file.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8"
    )


def saved_with_state(directory, add_bos=True):
    """A tokenizer.json with padding, truncation and BPE dropout left on."""
    fx.write_tokenizer(directory, add_bos)
    backend = tokenizers.Tokenizer.from_str(fx.trained_bpe(add_bos))
    backend.enable_padding(length=16, direction="left", pad_id=1, pad_token="!")
    backend.enable_truncation(5)
    backend.model.dropout = 0.9
    backend.save(str(directory / "tokenizer.json"))


def test_padding_truncation_and_dropout_of_the_file_are_cleared(tmp_path):
    saved_with_state(tmp_path)
    tokenizer = tokenizer_from_directory(tmp_path, {}, fx.VOCAB)
    reference = tokenizers.Tokenizer.from_str(fx.trained_bpe())
    assert (tokenizer.bos_id, tokenizer.add_bos) == (0, True)
    assert tokenizer.encode(TEXT) == reference.encode(TEXT).ids


@pytest.mark.parametrize("template", [False, True])
def test_the_template_decides_about_bos_as_in_transformers(tmp_path, capsys, template):
    fx.write_tokenizer(tmp_path, add_bos=template)
    edit_json(tmp_path / "tokenizer_config.json", add_bos_token=not template)
    tokenizer = tokenizer_from_directory(tmp_path, {}, fx.VOCAB)
    reference = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json")
    )
    assert tokenizer.add_bos == template == (reference("a").input_ids[0] == 0)
    assert "add_bos_token" in capsys.readouterr().err
    edit_json(tmp_path / "tokenizer_config.json", add_bos_token=template)
    tokenizer_from_directory(tmp_path, {}, fx.VOCAB)
    assert capsys.readouterr().err == ""


def test_the_bos_of_the_template_counts_before_that_of_the_settings(tmp_path):
    fx.write_tokenizer(tmp_path, add_bos=True)
    edit_json(tmp_path / "tokenizer_config.json", bos_token="!")
    tokenizer = tokenizer_from_directory(tmp_path, {}, fx.VOCAB)
    assert (tokenizer.bos_id, tokenizer.add_bos) == (0, True)


@pytest.mark.parametrize("content", ["größe", "čaj", "  two", "<|im_start|>", "東京", "Ġzzq"])
def test_added_tokens_stand_for_their_own_text(directory, content):
    """Even where all of their letters are also letters of the byte-level alphabet."""
    backend = tokenizers.Tokenizer.from_str(fx.trained_bpe())
    backend.add_tokens([content])
    backend.save(str(directory / "tokenizer.json"))
    tokenizer = tokenizer_from_directory(directory, {}, fx.VOCAB + 1)
    assert tokenizer.encode(content) == [fx.VOCAB]
    assert tokenizer.vocab().token_bytes(fx.VOCAB) == content.encode()


def test_an_added_token_that_merges_make_too_stands_for_their_bytes(directory):
    backend = tokenizers.Tokenizer.from_str(fx.trained_bpe())
    backend.add_tokens(["Ġa"])
    backend.save(str(directory / "tokenizer.json"))
    tokenizer = tokenizer_from_directory(directory, {}, fx.VOCAB)
    assert tokenizer.vocab().token_bytes(tokenizer.encode(" a")[0]) == b" a"


@pytest.mark.fault
@pytest.mark.hostile
def test_a_tokenizer_is_read_from_a_path_that_is_not_utf8(directory):
    odd = directory / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    (directory / "tokenizer.json").rename(odd / "tokenizer.json")
    tokenizer = tokenizer_from_directory(odd, {}, fx.VOCAB)
    assert tokenizer.encode("a") == tokenizers.Tokenizer.from_str(fx.trained_bpe()).encode("a").ids


@pytest.mark.fault
@pytest.mark.hostile
def test_half_a_surrogate_pair_is_no_text(directory):
    tokenizer = tokenizer_from_directory(directory, {}, fx.VOCAB)
    with pytest.raises(UserError, match=r"caf\\udce9.* surrogate"):
        tokenizer.encode("caf\udce9")


def test_a_token_without_a_row_is_named_with_its_text(directory):
    backend = tokenizers.Tokenizer.from_str(fx.trained_bpe())
    backend.add_tokens(["<tag>"])
    backend.save(str(directory / "tokenizer.json"))
    tokenizer = tokenizer_from_directory(directory, {}, fx.VOCAB)
    assert (
        tokenizer.encode("a tag")
        == tokenizers.Tokenizer.from_str(fx.trained_bpe()).encode("a tag").ids
    )
    with pytest.raises(UserError, match=r"'<tag>'.* 384.*'Chapter 1 has a <tag>"):
        tokenizer.encode("Chapter 1 has a <tag>")


def metadata_without(file, *missing, **changes):
    """The GGUF file without some metadata, or with other values."""
    read = GgufFile(file)
    get = read.get
    read.get = lambda key: None if key in missing else changes.get(key.rsplit(".", 1)[-1], get(key))
    return read


PRE, ADD_BOS, ADD_PREFIX, TYPES = (
    f"tokenizer.ggml.{key}" for key in ("pre", "add_bos_token", "add_space_prefix", "token_type")
)


@pytest.mark.parametrize(
    ("architecture", "pre"),
    [("gpt2", "gpt-2"), ("gptneox", "olmo"), ("qwen2", "qwen2"), ("qwen3", "qwen2")],
)
def test_missing_splitting_is_that_of_the_architecture(tmp_path, gguf_path, architecture, pre):
    model = fx.random_model(fx.gpt2_config(n_layer=1))
    stated = tokenizer_from_gguf(
        GgufFile(write_gguf(model, tmp_path / "small.gguf", pre=pre)), fx.VOCAB
    )
    silent = metadata_without(gguf_path, PRE, architecture=architecture)
    text = "it's   12345 nai\u0308ve"
    assert tokenizer_from_gguf(silent, fx.VOCAB).encode(text) == stated.encode(text)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_missing_splitting_is_refused_where_models_differ(gguf_path, architecture):
    silent = metadata_without(gguf_path, PRE, architecture=architecture)
    with pytest.raises(UserError, match=r"tokenizer\.ggml\.pre"):
        tokenizer_from_gguf(silent, fx.VOCAB)


@pytest.mark.parametrize(("pre", "adds"), [("gpt-2", False), ("llama-bpe", True), ("qwen2", False)])
def test_a_missing_add_bos_token_is_what_the_models_tokenizer_does(tmp_path, pre, adds):
    file = write_gguf(fx.random_model(fx.gpt2_config(n_layer=1)), tmp_path / "x.gguf", pre=pre)
    assert tokenizer_from_gguf(metadata_without(file, ADD_BOS), fx.VOCAB).add_bos is adds


@pytest.mark.parametrize(
    ("architecture", "prefix"), [("llama", " "), ("gemma2", ""), ("gemma3", "")]
)
def test_a_missing_space_prefix_is_what_the_models_tokenizer_does(tmp_path, architecture, prefix):
    model = fx.random_model(fx.llama_config(num_hidden_layers=1, vocab_size=1024))
    file = write_gguf(model, tmp_path / "small.gguf", pieces=small_pieces())
    silent = metadata_without(file, ADD_PREFIX, ADD_BOS, architecture=architecture)
    tokenizer = tokenizer_from_gguf(silent, 1024)
    assert (tokenizer.prefix, tokenizer.add_bos) == (prefix, True)


def test_token_types_that_are_missing_or_too_few_are_refused(gguf_path):
    for silent in (metadata_without(gguf_path, TYPES), metadata_without(gguf_path, token_type=[1])):
        with pytest.raises(UserError, match="token_type"):
            tokenizer_from_gguf(silent, fx.VOCAB)


def test_added_tokens_of_gguf_stand_for_their_own_text(gguf_path):
    tokens = GgufFile(gguf_path).get("tokenizer.ggml.tokens")
    tokens[-1], types = "größe", [3] + [1] * (fx.VOCAB - 2) + [4]
    merges = GgufFile(gguf_path).get("tokenizer.ggml.merges")[:-1]
    changed = metadata_without(gguf_path, tokens=tokens, token_type=types, merges=merges)
    tokenizer = tokenizer_from_gguf(changed, fx.VOCAB)
    assert tokenizer.encode("größe") == [fx.VOCAB - 1]
    assert tokenizer.vocab().token_bytes(fx.VOCAB - 1) == "größe".encode()


def test_the_chat_template_of_gguf_knows_its_special_tokens(tmp_path):
    model = fx.random_model(fx.llama_config(num_hidden_layers=1))
    template = "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}{% endfor %}"
    file = write_gguf(model, tmp_path / "x.gguf", add_chat_template=template)
    chat = tokenizer_from_gguf(GgufFile(file), fx.VOCAB).chat
    assert chat.render([{"role": "user", "content": "Hi"}]) == f"{fx.BOS}user: Hi"
