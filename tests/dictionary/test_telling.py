"""What a dictionary's files tell: no place of the machine, and hostile names as text."""

import json
from dataclasses import replace

import pytest
import yaml
from dictionary_fixtures import PROVENANCE, dictionary, token_strings

import vasae_jax as vj
from vasae_jax.cache.vocab import Vocab
from vasae_jax.dictionary.card import model_card, name_table
from vasae_jax.dictionary.files import read_dictionary, write_dictionary
from vasae_jax.interop.libraries import LAYOUTS, export_layout
from vasae_jax.utils.files import sha256_file

SECRET = "/home/alice/secret-project"
HOSTILE = (
    "x/y\nlicense: mit",
    "a/b\n---\n# no\n<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![](http://evil/x.png) http://evil www.evil",
    "a|b`c`**d**$e^f$ &lt;b&gt; &#x202e;",
    "\u202egnp.x\x1b[2J\ud800",
)


def told_by(**where):
    """A dictionary whose provenance is ``where``, beside the usual."""
    found = dictionary()
    return replace(found, meta={**found.meta, "provenance": {**PROVENANCE, **where}})


def of_model(name):
    return told_by(model={**PROVENANCE["model"], "id": name})


def of_places():
    """A dictionary as an earlier version left it, with the whole path of everything."""
    found = told_by(
        model={**PROVENANCE["model"], "id": f"{SECRET}/tiny"},
        text={"source": f"{SECRET}/book.txt", "digest": "11"},
        imported={
            "library": "sae_lens",
            "activation": "topk",
            "model": f"{SECRET}/gpt2",
            "source": f"{SECRET}/sae",
        },
    )
    run = {"out": f"{SECRET}/run", "wandb": "alice/secret-project"}
    config = {"data": {"cache": f"gs://alice-bucket{SECRET}/cache"}, "run": run}
    return replace(found, meta={**found.meta, "config": config})


def rewritten(folder, change):
    """Change meta.json as ``change`` does, with digests that fit."""
    meta = json.loads((folder / "meta.json").read_bytes())
    change(meta)
    files = {"npz": "dictionary.npz", "names": "names.jsonl"}
    meta["sha256"] = {key: sha256_file(folder / name) for key, name in files.items()}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


@pytest.mark.fault
@pytest.mark.parametrize("layout", ["npz", *LAYOUTS])
def test_no_file_that_is_written_names_a_place(layout, tmp_path):
    found = of_places()
    if layout == "gemma_scope":
        found = replace(dictionary(thresholds=True), meta=found.meta)
    if layout == "npz":
        written = write_dictionary(tmp_path / "dictionary.npz", found)
    else:
        written = export_layout(found, layout, tmp_path)
    for path in written:
        data = path.read_bytes()
        assert not [word for word in (b"alice", b"secret") if word in data], path.name
    if layout in ("npz", "huggingface"):
        origin = json.loads((tmp_path / "meta.json").read_bytes())["provenance"]
        assert origin["text"] == {"source": "book.txt", "digest": "11"}
        assert (origin["model"]["id"], origin["imported"]["source"]) == ("tiny", "sae")


@pytest.mark.fault
def test_a_file_of_an_earlier_version_is_not_published_again_as_it_is(tmp_path):
    write_dictionary(tmp_path / "dictionary.npz", dictionary())
    rewritten(tmp_path, lambda meta: meta.update(json.loads(json.dumps(dict(raw_meta())))))
    export_layout(read_dictionary(tmp_path / "dictionary.npz"), "huggingface", tmp_path / "hub")
    for path in (tmp_path / "hub").iterdir():
        assert b"alice" not in path.read_bytes(), path.name


def raw_meta():
    origin = {**PROVENANCE, "text": {"source": f"{SECRET}/book.txt", "digest": "11"}}
    yield "provenance", origin
    yield "config", {"data": {"cache": f"{SECRET}/cache"}, "run": {"out": f"{SECRET}/run"}}


@pytest.mark.fault
@pytest.mark.parametrize("name", HOSTILE)
def test_the_head_of_a_card_is_ours_alone_and_its_body_has_no_markup_of_others(name):
    card = model_card(of_model(name))
    card.encode()
    _, head, body = card.split("---\n", 2)
    assert set(yaml.safe_load(head)) <= {"library_name", "base_model", "tags"}
    prose = "".join(part for i, part in enumerate(body.split("```")) if i % 2 == 0)
    assert "<script" not in prose.replace("\\<", "") and "<img" not in prose.replace("\\<", "")
    assert "](" not in prose.replace("\\]", "") and "\nlicense" not in card
    assert not set(card) & set("\u202e\x1b\ud800")


@pytest.mark.fault
@pytest.mark.parametrize("where", [{"text": {"source": "<b>\n# x"}}, {"layer": "<b>\n# x"}])
def test_whatever_else_a_card_says_of_its_origin_is_text(where):
    card = model_card(told_by(**where))
    prose = card.partition("```python")[0]
    assert "<b>" not in prose.replace("\\<", "") and "\n# x" not in card


def test_the_base_model_of_a_card_is_a_repository_of_the_hub():
    for name, base in (("test/tiny", "test/tiny"), ("null/1", "null/1"), ("tiny", None)):
        head = model_card(of_model(name)).split("---\n")[1]
        assert yaml.safe_load(head).get("base_model") == base


@pytest.mark.fault
def test_a_dictionary_of_others_cannot_move_the_cursor(tmp_path):
    write_dictionary(tmp_path / "dictionary.npz", dictionary())
    names = tmp_path / "names.jsonl"
    lines = [json.loads(line) for line in names.read_text(encoding="utf-8").split("\n")[:-1]]
    for line in lines:
        for name in (*line["names"], *line["layer_names"]):
            name["display"] = "a\x1b[2J\n\u202eb"
    names.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rewritten(tmp_path, lambda meta: meta.update(hold_over="9 \x1b[2Jrows", anchor="x\u202e"))
    found = vj.load(tmp_path)
    for text in (name_table(found, features=20), model_card(found), str(found.names(3))):
        assert not set(text) & set("\x1b\u202e")
    assert found.names(3).layer[0].text == "a\\x1b[2J\\x0a\\u202eb"
    rows = name_table(found, features=20).split("\n\n")[0].splitlines()
    assert len(rows) == 21


@pytest.mark.fault
def test_half_a_surrogate_pair_is_kept_in_json(tmp_path):
    strings = token_strings()
    vocab = Vocab("plain", ("\ud800", *strings.raw[1:]))
    found = replace(dictionary(vocab=vocab), meta=of_model("odd\udcff\ud800").meta)
    write_dictionary(tmp_path / "dictionary.npz", found)
    meta = json.loads((tmp_path / "meta.json").read_text(encoding="utf-8"))
    assert meta["provenance"]["model"]["id"] == "odd\udcff\ud800"
    assert "\ud800" in {raw for raw, _ in vj.load(tmp_path).tokens.values()}
    export_layout(found, "huggingface", tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "cfg.json").read_text(encoding="utf-8"))
    assert config["metadata"]["model_name"] == "odd\udcff\ud800"
