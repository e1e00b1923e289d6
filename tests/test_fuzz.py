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
from mutations import DEEP, damaged, documents, few

from vasae_jax.cache import Cache, CacheWriter
from vasae_jax.config import Config
from vasae_jax.config.overrides import flatten, parse_overrides, to_dict
from vasae_jax.dictionary.files import read_dictionary, write_dictionary
from vasae_jax.sweep.points import Member, read_members, write_members
from vasae_jax.training.run_dir import read_run
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_file

pytestmark = pytest.mark.fault


def read_cache(url):
    cache = Cache.open(url)
    cache.acts(cache.manifest.sites[0], "train").read(0, 10)
    for read in (cache.embedding, cache.final_norm, cache.vocab):
        read()


def with_damage(file, contents, read):
    """Read with each of Hypothesis's ``contents`` in the place of ``file``, then put it back."""
    sound = file.read_bytes()

    @few
    @given(contents)
    def attempt(content):
        file.write_bytes(content)
        with contextlib.suppress(UserError):
            read()

    try:
        attempt()
    finally:
        file.write_bytes(sound)
    read()


def documents_of(file):
    """Changes to the values and to the bytes of a JSON file."""
    content = file.read_bytes()
    return documents(json.loads(content)) | damaged(content) | DEEP


@pytest.mark.parametrize(
    "name", ["manifest.json", "vocab/final_norm.json", "train/acts/layers.1.resid_post/zarr.json"]
)
def test_a_cache(tmp_path, name):
    cache = make_cache(tmp_path, rows=40, heldout=20, layers=(1,), vocab=5, d=4)
    file = tmp_path / "cache" / name
    with_damage(file, documents_of(file), lambda: read_cache(cache.url))


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

    with_damage(content, documents_of(content), resume)


def test_the_settings_of_a_run(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"config": to_dict(Config()), "cache_digest": "0"}), encoding="utf-8"
    )
    with_damage(file, documents_of(file), lambda: read_run(tmp_path))


def test_the_runs_of_a_sweep(tmp_path):
    write_members(tmp_path, [Member("0123456789", "k=32", Config())])
    file = tmp_path / "sweep.json"
    with_damage(file, documents_of(file), lambda: read_members(tmp_path))


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


def read_sealed(directory):
    """Read a dictionary whose digests are made to fit: what they would find is not the point."""
    meta = json.loads((directory / "meta.json").read_bytes())
    names = {"npz": "d.npz", "names": "names.jsonl"}
    meta["sha256"] = {key: sha256_file(directory / name) for key, name in names.items()}
    (directory / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    read_dictionary(directory / "d.npz")


def test_a_dictionarys_metadata(exported):
    file = exported / "meta.json"
    with_damage(file, documents_of(file), lambda: read_dictionary(exported / "d.npz"))


def test_a_dictionarys_names(exported):
    file = exported / "names.jsonl"
    first, rest = file.read_bytes().split(b"\n", 1)
    changed = documents(json.loads(first)).map(lambda line: line + b"\n" + rest)
    with_damage(file, changed | damaged(file.read_bytes()), lambda: read_sealed(exported))


def test_a_dictionarys_arrays(exported):
    file = exported / "d.npz"
    with_damage(file, damaged(file.read_bytes()), lambda: read_sealed(exported))


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
