"""Special tokens that a text spells, and conversations: the right ids, and how many there were."""

import json
from dataclasses import replace

import numpy as np
import pytest
import transformers
from lm_fixtures import BOS, llama_config, random_model, save_model

from vasae_jax.cache import Cache, CacheWriter
from vasae_jax.extract import Settings, extract, read_documents
from vasae_jax.extract.arguments import make_parser, run, settings_of
from vasae_jax.extract.special_tokens import TextReader
from vasae_jax.extract.windows import make_windows
from vasae_jax.lm import load_lm
from vasae_jax.utils.errors import UserError

TEMPLATE = (
    "{% for m in messages %}{{ bos_token }}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if messages[0]['role'] == 'odd' %}{{ raise_exception('an odd role') }}{% endif %}"
)
MESSAGES = [{"role": "user", "content": "How many?"}, {"role": "model", "content": "Twelve."}]
TEXT = f"One document.{BOS}Another one, with more.{BOS}\n{BOS}The third."
SETTINGS = Settings(layers=(0,), context_length=16, dtype="float32", chunk_rows=64, shard_rows=256)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model with a chat template whose tokenizer puts a BOS before every text."""
    place = tmp_path_factory.mktemp("models") / "chat"
    save_model(random_model(llama_config(num_hidden_layers=1)), place, add_bos=True)
    (place / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def lm(directory):
    return load_lm(directory)


def read(tokenizer, mode, source):
    reader = TextReader(tokenizer, mode)
    return [reader.encode(document) for document in reader.documents(source)], reader


@pytest.mark.fault
def test_as_text_they_are_plain_characters_and_counted(lm):
    ids, reader = read(lm.tokenizer, "text", [TEXT, "none"])
    assert ids[0] == lm.tokenizer.encode(TEXT)
    assert 0 not in ids[0]
    assert reader.counts == {BOS: 3}
    assert f"3 {BOS}" in reader.summary()


def test_parsed_they_are_the_ids_of_transformers(lm, directory):
    ids, reader = read(lm.tokenizer, "parse", [TEXT])
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    assert ids == [theirs.encode(TEXT, add_special_tokens=False)]
    assert ids[0].count(0) == 3
    assert reader.counts == {BOS: 3}


def test_split_they_end_documents_and_pieces_of_spaces_are_none(lm):
    ids, reader = read(lm.tokenizer, "split", [TEXT, "whole"])
    pieces = ["One document.", "Another one, with more.", "The third.", "whole"]
    assert ids == [lm.tokenizer.encode(piece) for piece in pieces]
    assert reader.counts == {BOS: 3}


def test_a_text_without_them_is_not_reported(lm):
    for mode in ("text", "parse", "split"):
        ids, reader = read(lm.tokenizer, mode, [" plain text "])
        assert ids == [lm.tokenizer.encode(" plain text ")]
        assert reader.summary() == ""


@pytest.mark.parametrize("mode", ["text", "parse", "split"])
def test_conversations_are_those_of_transformers_in_every_mode(lm, directory, mode):
    ids, reader = read(lm.tokenizer, mode, ["text", MESSAGES])
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    assert ids[1] == theirs.apply_chat_template(MESSAGES, return_dict=False)
    assert reader.conversations == 1
    assert not reader.counts


@pytest.mark.parametrize("setting", [TEMPLATE, [{"name": "default", "template": TEMPLATE}]])
def test_the_template_of_the_settings_is_read(tmp_path, lm, setting):
    place = save_model(random_model(llama_config(num_hidden_layers=1)), tmp_path / "m")
    file = place / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) | {"chat_template": setting}
    file.write_text(json.dumps(settings), encoding="utf-8")
    assert load_lm(place).tokenizer.chat == lm.tokenizer.chat


def test_the_date_of_llamas_templates_is_the_same_on_every_day(lm):
    source = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
        "{% endif %}{{ date_string }}"
    )
    assert replace(lm.tokenizer.chat, source=source).render(MESSAGES) == "26 Jul 2024"


@pytest.mark.fault
def test_conversations_that_cannot_be_rendered_are_named(lm):
    odd = [{"role": "odd", "content": "x"}]
    with pytest.raises(UserError, match=r"document 1 .*an odd role"):
        read(lm.tokenizer, "text", ["text", odd])
    half = [{"role": "user", "content": "\ud800"}]
    with pytest.raises(UserError, match="document 0"):
        read(lm.tokenizer, "text", [half])
    with pytest.raises(UserError, match="no chat template"):
        read(replace(lm.tokenizer, chat=None), "text", [MESSAGES])


def test_records_of_messages_are_read_from_files(tmp_path, lm):
    records = [{"messages": MESSAGES}, {"messages": "text"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert list(read_documents(str(tmp_path / "x.jsonl"), "messages")) == [MESSAGES, "text"]
    (tmp_path / "y.jsonl").write_text(
        json.dumps({"messages": [{"role": "user"}]}), encoding="utf-8"
    )
    with pytest.raises(UserError, match="'messages' is a list"):
        list(read_documents(str(tmp_path / "y.jsonl"), "messages"))


def test_a_document_that_begins_with_the_bos_gets_no_second_one():
    documents = {"a": [0, 5, 6, 7], "b": [8, 9]}
    windows = make_windows(documents, documents.get, 4, bos_id=0)
    assert windows.tokens.tolist() == [0, 5, 6, 7, 0, 8, 9]
    assert windows.lengths.tolist() == [4, 3]


def test_the_cache_says_how_they_were_read_and_is_not_continued_otherwise(tmp_path, lm, capsys):
    texts = [f"One.{BOS}Two.{BOS}\n{BOS}{i}" for i in range(12)]
    for mode in ("text", "parse"):
        settings = replace(SETTINGS, special_tokens=mode)
        extract(lm, texts, str(tmp_path / mode), settings, source="x")
        assert f"36 {BOS}" in capsys.readouterr().err
    text, parse = (Cache.open(str(tmp_path / mode)) for mode in ("text", "parse"))
    assert parse.manifest.text == replace(text.manifest.text, special_tokens="parse")
    found = [np.count_nonzero(c.column("tokens", "train").read(0, 40) == 0) for c in (text, parse)]
    assert found[1] > found[0]  # BOS before windows alone, and in the text as well


@pytest.mark.fault
def test_an_unfinished_cache_is_not_continued_in_another_mode(tmp_path, lm, monkeypatch):
    texts = [f"One.{BOS}Two.{BOS}\n{BOS}{i}" for i in range(12)]
    with monkeypatch.context() as patch:
        patch.setattr(CacheWriter, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(lm, texts, str(tmp_path / "c"), SETTINGS, source="x")
    parsed = replace(SETTINGS, special_tokens="parse")
    with pytest.raises(UserError, match="'special_tokens': 'text'"):
        extract(lm, texts, str(tmp_path / "c"), parsed, source="x")
    journal = tmp_path / "c" / "journal.json"
    older = json.loads(journal.read_text(encoding="utf-8"))
    del older["plan"]["text"]["special_tokens"]  # as before there were modes
    journal.write_text(json.dumps(older), encoding="utf-8")
    assert extract(lm, texts, str(tmp_path / "c"), SETTINGS, source="x").text.digest


def stop(*_, **__):
    raise KeyboardInterrupt


def test_the_command_line_has_the_modes(directory, tmp_path, capsys):
    given = ["--model", str(directory), "--out", str(tmp_path / "c"), "--layers", "0"]
    file = tmp_path / "x.jsonl"
    file.write_text(
        "\n".join(json.dumps({"text": f"{TEXT} {i}"}) for i in range(9)), encoding="utf-8"
    )
    options = [*given, "--text", str(file), "--context-length", "16", "--special-tokens", "split"]
    arguments = make_parser("").parse_args(options)
    assert settings_of(arguments).special_tokens == "split"
    assert run(arguments, lambda _: load_lm(directory)) == 0
    assert f"27 {BOS}" in capsys.readouterr().err
    splits = Cache.open(str(tmp_path / "c")).manifest.splits
    assert sum(info.documents for info in splits.values()) == 27


def test_an_unknown_mode_is_refused(tmp_path, lm):
    settings = replace(SETTINGS, special_tokens="drop")
    with pytest.raises(UserError, match="'drop'; expected one of text, parse, split"):
        extract(lm, ["a text"], str(tmp_path / "c"), settings, source="x")
