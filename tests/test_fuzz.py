"""Every reader of a stored file, given what Hypothesis made of it: UserErrors alone come out."""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest
from cache_fixtures import append, make_cache, make_plan, make_rows, make_vocabulary
from dictionary_fixtures import dictionary
from hypothesis import given
from hypothesis import strategies as st
from mutations import (
    arrays,
    attack,
    damaged,
    documents_of,
    few,
    lines_of,
    npz,
    replaced,
    safetensors_of,
)

from vasae_jax.anchor.layer_anchors import layer_anchors, problems
from vasae_jax.cache import Cache, CacheWriter, Part, PartWriter, finish, verify
from vasae_jax.cache.manifest import checksum
from vasae_jax.cache.reader import info
from vasae_jax.config import Config, RunConfig
from vasae_jax.config.overrides import flatten, parse_overrides, to_dict
from vasae_jax.dictionary.card import model_card, name_table
from vasae_jax.dictionary.files import HUB_FILES, load, read_dictionary, write_dictionary
from vasae_jax.interop.libraries import export_layout
from vasae_jax.sweep.points import Member, read_members, write_members
from vasae_jax.sweep.status import status_text
from vasae_jax.sweep.table import format_rows, table, write_table
from vasae_jax.training.run_dir import read_run
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_file, write_json

pytestmark = pytest.mark.fault


def read_cache(url):
    cache = Cache.open(url)
    info(url)
    verify(url)
    cache.acts(cache.manifest.sites[0], "train").read(0, 10)
    for read in (cache.embedding, cache.final_norm, cache.vocab):
        read()


@pytest.mark.parametrize(
    "name", ["manifest.json", "vocab/final_norm.json", "train/acts/layers.1.resid_post/zarr.json"]
)
def test_a_cache(tmp_path, name):
    cache = make_cache(tmp_path, rows=40, heldout=20, layers=(1,), vocab=5, d=4)
    file = tmp_path / "cache" / name
    attack(file, documents_of(file), lambda: read_cache(cache.url))


def test_token_strings(tmp_path):
    cache = make_cache(tmp_path, rows=40, heldout=20, layers=(1,), vocab=5, d=4)
    file, manifest = tmp_path / "cache/vocab/tokens.json", tmp_path / "cache/manifest.json"

    def read():
        value = json.loads(manifest.read_bytes())
        value["digests"]["tokens"] = sha256_file(file)
        manifest.write_text(json.dumps(value), encoding="utf-8")
        vocab = Cache.open(cache.url).vocab()
        assert all(vocab.display(token) for token in range(len(vocab)))

    attack(file, documents_of(file), read)


def test_layer_anchors(tmp_path):
    cache = make_cache(tmp_path, rows=100, heldout=20, layers=(1,), vocab=5, d=4)
    layer_anchors(cache, 1, 1, 3.0)
    (file,) = (tmp_path / "cache" / "anchors").rglob("anchors.json")

    def read():
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(file.read_bytes())
            if isinstance(value, dict):
                value["checksum"] = checksum(value)
                file.write_text(json.dumps(value), encoding="utf-8")
        problems(cache)
        layer_anchors(cache, 1, 1, 3.0)

    listed = ("arrays", "at_count")
    wrong = [("of",), ("arrays",), listed, (*listed, "shape"), (*listed, "sha256")]
    found = [replaced(file, path, None) for path in wrong]
    found += [replaced(file, path, None, "d") for path in (("of",), ("at_explained",), listed)]
    attack(file, documents_of(file), read, found)


def test_parts_of_a_cache(tmp_path):
    plan, rows = make_plan(layers=(1,), vocab=5, d=4), {"train": 70, "heldout": 0}
    place = tmp_path / "cache"
    with PartWriter(str(place), plan, make_vocabulary(plan), rows, Part(0, 1)) as writer:
        append(writer, "train", make_rows(plan, 70))
        writer.finish_part()
    sound = shutil.copytree(place, tmp_path / "sound")
    file = sound / "parts" / "00000-of-00001.json"

    def read():
        shutil.rmtree(place)
        shutil.copytree(sound, place)
        finish(str(place))

    keys = [("plan",), ("shards",), ("complete",), ("version",), ("rows",), ("plan", "model")]
    found = [replaced(file, key, 3, how) for key in keys for how in "rd"]
    attack(file, documents_of(file), read, found)


def test_a_journal(tmp_path):
    plan = make_plan(layers=(1,), vocab=5, d=4)
    vocabulary, sound = make_vocabulary(plan), tmp_path / "sound"
    with CacheWriter(str(sound), plan, vocabulary) as writer:
        append(writer, "train", make_rows(plan, 70))
    content = sound / "journal.json"

    def resume():
        shutil.copytree(sound, tmp_path / "cache")
        try:
            CacheWriter(str(tmp_path / "cache"), plan, vocabulary).close()
        finally:
            shutil.rmtree(tmp_path / "cache")

    attack(content, documents_of(content), resume, [replaced(content, ("digests",), [1])])


def test_the_settings_of_a_run(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"config": to_dict(Config()), "cache_digest": "0"}), encoding="utf-8"
    )
    attack(file, documents_of(file), lambda: read_run(tmp_path))


def test_the_runs_of_a_sweep(tmp_path):
    write_members(tmp_path, [Member("0123456789", "k=32", Config())])
    file = tmp_path / "sweep.json"
    attack(file, documents_of(file), lambda: read_members(tmp_path))


MEASURED = {"split": "heldout", "unmasked": {"fvu": 0.1}, "names": [{"group": "all", "hold": 0.2}]}


@pytest.mark.parametrize("name", ["eval-heldout.json", "ended.json", "metrics.jsonl"])
def test_the_table_of_a_sweep(tmp_path, name):
    member = Member("0123456789", "k=32", Config(run=RunConfig(out=str(tmp_path))))
    write_json(tmp_path / "eval-heldout.json", MEASURED)
    write_json(tmp_path / "ended.json", {"status": "diverged", "step": 3, "reason": "fvu"})
    lines = [{"step": step, "rows": 8 * step, "fvu": 0.5, "rows_per_s": 10.0} for step in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")

    def read():
        rows = table([member, member])
        write_table(tmp_path / "out", rows)
        status_text([member])
        format_rows(rows, ["id", "fvu"], None)

    file = tmp_path / name
    found = {
        "eval-heldout.json": b'{"names": [{"group": "a", "hold": 1}, 3]}',
        "ended.json": b'{"status": 1, "step": "x", "reason": null}',
        "metrics.jsonl": b'[1]\n{"step": "x"}\n{"step": 1, "rows_per_s": "fast"}\n\xff',
    }
    changed = lines_of(file) if name.endswith("l") else documents_of(file)
    attack(file, changed, read, [found[name]])


@few
@given(st.sampled_from(list(flatten(Config()))), st.text(max_size=6) | st.floats().map(str))
def test_overrides(name, value):
    for arguments in ([f"--{name}={value}"], [f"--{name}", value]):
        with contextlib.suppress(UserError):
            parse_overrides(Config(), arguments, "vasae train")


@pytest.fixture
def exported(tmp_path):
    write_dictionary(tmp_path / "d.npz", dictionary())
    return tmp_path


def seal(directory, **files):
    """Make the digests in a meta.json fit: what they would find is not the point."""
    meta = json.loads((directory / "meta.json").read_bytes())
    meta["sha256"] = {key: sha256_file(directory / name) for key, name in files.items()}
    (directory / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def read_sealed(directory):
    """Read a dictionary whose digests are made to fit, and use all of it."""
    seal(directory, npz="d.npz", names="names.jsonl")
    use(read_dictionary(directory / "d.npz"))


def use(found):
    """Everything that is done with a dictionary that could be read."""
    rows = np.ones((2, found.d_in), np.float32)
    found.decode(found.encode(rows))
    names = [str(found.names(feature)) for feature in range(found.d_sae)]
    assert len(names) == found.d_sae
    found.search("w1")
    found.explain(rows[0])
    name_table(found)
    model_card(found)


def test_a_dictionarys_metadata(exported):
    file = exported / "meta.json"
    attack(file, documents_of(file), lambda: use(read_dictionary(exported / "d.npz")))


def test_a_dictionarys_names(exported):
    file = exported / "names.jsonl"
    attack(file, lines_of(file), lambda: read_sealed(exported))


def test_a_dictionarys_arrays(exported):
    file = exported / "d.npz"
    sound = dict(np.load(file))
    changed = arrays(sound).map(npz) | damaged(file.read_bytes())
    attack(file, changed, lambda: read_sealed(exported))


@pytest.mark.parametrize("name", ["cfg.json", "names.safetensors", "sae_weights.safetensors"])
def test_a_dictionary_of_the_hub(tmp_path, name):
    export_layout(dictionary(), "huggingface", tmp_path)
    file = tmp_path / name
    changed = documents_of(file) if name == "cfg.json" else safetensors_of(file)

    def read():
        seal(tmp_path, **HUB_FILES)
        use(load(tmp_path))

    attack(file, changed, read)


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [
        *(("layer_relation", (0,), 7), ("verdict", (0,), 9), ("verdict_together", (0,), 9)),
        *(("layer_verdict", (0, 0), 9), ("k", (), 0), ("k", (), 21), ("token_ids", (0, 0), -1)),
        *(("token_ids", (0, 0), 39_000), ("layer_token_ids", (0, 0), -1)),
        *(("layer_token_ids", (0, 0), -2), ("layer_token_ids", (0, 0), 39_000)),
    ],
)
def test_codes_and_ids_that_mean_nothing_are_refused(exported, name, place, value):
    sound = dict(np.load(exported / "d.npz"))
    sound[name] = sound[name].copy()
    sound[name][place] = value
    np.savez(exported / "d.npz", **sound)
    if name == "k":
        meta = json.loads((exported / "meta.json").read_bytes())
        meta["activation"] = {"kind": "topk", "k": value}
        (exported / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(UserError, match=r"d\.npz|names\.jsonl"):
        read_sealed(exported)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((("provenance",), None), (("provenance", "layer"), "3"), (("provenance", "text"), [])),
        *((("hold_over",), 3), (("metrics",), {"unmasked": {}}), (("metrics",), {"unmasked": 1})),
        *((("activation",), {"kind": "topk", "k": "4"}), (("activation",), {"kind": ["topk"]})),
        *((("hold_documents",), "many"), (("created_by",), None), (("version",), "5")),
    ],
)
def test_metadata_of_other_types_is_refused(exported, path, value):
    file = exported / "meta.json"
    file.write_bytes(replaced(file, path, value))
    with pytest.raises(UserError, match=r"meta\.json"):
        read_dictionary(exported / "d.npz")


class Hostile:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("unpickled",))


def test_a_pickle_in_a_dictionary_is_not_run(exported, monkeypatch):
    monkeypatch.chdir(exported)
    arrays = dict(np.load(exported / "d.npz"))
    np.savez(exported / "d.npz", **arrays | {"k": np.array([Hostile()], object)})
    with pytest.raises(UserError, match="pickle"):
        read_sealed(exported)
    assert not (exported / "unpickled").exists()


def test_a_dictionary_that_grows_when_it_is_read_is_refused(exported):
    arrays = dict(np.load(exported / "d.npz"))
    bomb = {"W_enc": np.zeros((6, 2**18), np.float32)}
    np.savez_compressed(exported / "d.npz", **arrays | bomb)
    with pytest.raises(UserError, match=r"d\.npz"):
        read_sealed(exported)
