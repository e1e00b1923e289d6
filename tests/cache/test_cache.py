"""The cache: what is written is read back, what is wrong is refused in one sentence."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
from cache_fixtures import append, make_cache, make_plan, make_rows, make_vocabulary
from full_disks import full_beyond

from vasae_jax.cache import Cache, CacheWriter, ModelInfo, info, verify
from vasae_jax.cache.journal import journal_bytes
from vasae_jax.cache.manifest import checksum
from vasae_jax.cache.vocab import Vocab
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import write_bytes


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("tied", [True, False])
def test_reads_back_what_was_written(tmp_path, dtype, tied):
    cache = make_cache(tmp_path, rows=333, heldout=70, dtype=dtype, tied=tied)
    plan = make_plan(dtype=dtype, tied=tied)
    assert vars(plan).items() <= vars(cache.manifest).items()
    for split, rows in (
        ("train", make_rows(plan, 333)),
        ("heldout", make_rows(plan, 70, seed=1, first_doc=1_000_000)),
    ):
        assert cache.manifest.splits[split].rows == len(rows.docs)
        assert cache.manifest.splits[split].documents == len(set(rows.docs.tolist()))
        for name in ("tokens", "positions", "docs"):
            column = cache.column(name, split)
            assert column.dtype == np.int32
            np.testing.assert_array_equal(column.read(0, len(rows.docs)), getattr(rows, name))
        for layer in (1, 3):
            stored = cache.acts(layer, split)
            assert stored.shape == (len(rows.docs), plan.d_model)
            assert stored.dtype == (ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float32)
            np.testing.assert_array_equal(stored.read(5, 40), rows.acts[layer][5:40])
            norms = np.linalg.norm(rows.acts[layer].astype(np.float64), axis=1)
            kept = cache.norms(layer, split).read(0, len(rows.docs))
            np.testing.assert_allclose(kept, norms, rtol=1e-6)
    made = make_vocabulary(plan)
    np.testing.assert_array_equal(cache.embedding(), made.embedding)
    head = made.embedding if tied else made.unembedding
    np.testing.assert_array_equal(cache.unembedding(), head)
    assert cache.final_norm() == made.final_norm
    assert cache.vocab() == made.vocab
    assert verify(cache.url) == []


def test_bytes_do_not_depend_on_how_rows_are_cut(tmp_path):
    plan = make_plan(d=33, dtype="float32")
    rows = make_rows(plan, 300)
    digests = set()
    for size in (7, 64, 300):
        url = str(tmp_path / str(size))
        with CacheWriter(url, plan, make_vocabulary(plan)) as writer:
            for start in range(0, 300, size):
                append(writer, "train", rows.part(start, start + size))
            writer.finish()
        digests.add(Cache.open(url).digest)  # the manifest holds every shard's digest
    assert len(digests) == 1


def test_zarr_layout_is_sharded_checked_and_exact(tmp_path):
    cache = make_cache(tmp_path, rows=100, chunk_rows=16, shard_rows=64)
    array = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{cache.url}/train/acts/layers.3.resid_post/"},
        }
    ).result()
    assert array.shape == (100, 16)
    assert array.chunk_layout.read_chunk.shape == (16, 16)
    assert array.chunk_layout.write_chunk.shape == (64, 16)
    metadata = json.loads(
        (tmp_path / "cache/train/acts/layers.3.resid_post/zarr.json").read_text(encoding="utf-8")
    )
    assert metadata["data_type"] == "bfloat16"
    sharding = metadata["codecs"][0]
    assert sharding["name"] == "sharding_indexed"
    assert sharding["configuration"]["codecs"][-1]["name"] == "crc32c"
    files = sorted(p.name for p in (tmp_path / "cache/train/tokens/c").iterdir())
    assert files == ["0", "1"]
    assert not (tmp_path / "cache/journal.json").exists()


def test_rows_of_zeros_are_stored_as_rows(tmp_path):
    plan = make_plan()
    rows = make_rows(plan, 64)
    for values in rows.acts.values():
        values[:] = 0
    with CacheWriter(str(tmp_path / "c"), plan, make_vocabulary(plan)) as writer:
        append(writer, "train", rows)
        writer.finish()
    assert (tmp_path / "c/train/acts/layers.1.resid_post/c/0/0").is_file()
    assert not Cache.open(str(tmp_path / "c")).acts(1, "train").read(0, 64).any()


@pytest.mark.fault
@pytest.mark.parametrize("value", [np.nan, np.inf, 3.4e38])
def test_refuses_rows_that_are_not_finite_as_stored(tmp_path, value):
    plan = make_plan()
    rows = make_rows(make_plan(dtype="float32"), 50)
    rows.acts[3][41, 2] = value  # 3.4e38 is finite as float32 and infinite as bfloat16
    with (
        CacheWriter(str(tmp_path / "c"), plan, make_vocabulary(plan)) as writer,
        pytest.raises(UserError) as caught,
    ):
        append(writer, "train", rows)
    place = f"document {rows.docs[41]} at position {rows.positions[41]}"
    assert "layers.3.resid_post" in str(caught.value)
    assert place in str(caught.value)


def test_keeps_finite_rows_whose_squares_overflow(tmp_path):
    plan = make_plan(dtype="float32")
    rows = make_rows(plan, 50)
    rows.acts[1][7] = 1e25
    with CacheWriter(str(tmp_path / "c"), plan, make_vocabulary(plan)) as writer:
        append(writer, "train", rows)
        writer.finish()
    norm = Cache.open(str(tmp_path / "c")).norms(1, "train").read(7, 8)
    np.testing.assert_allclose(norm, [4e25], rtol=1e-6)


def test_refuses_what_does_not_fit_the_plan(tmp_path):
    plan = make_plan()
    rows = make_rows(plan, 20)
    with CacheWriter(str(tmp_path / "c"), plan, make_vocabulary(plan)) as writer:
        with pytest.raises(ValueError, match="layers"):
            writer.append("train", rows.tokens, rows.positions, rows.docs, {1: rows.acts[1]})
        with pytest.raises(ValueError, match="docs has shape"):
            writer.append("train", rows.tokens, rows.positions, rows.docs[:9], rows.acts)
        with pytest.raises(ValueError, match="begin at 5; expected 0"):
            append(writer, "train", rows, start=5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": (3, 1)}, "ascending"),
        ({"layers": ()}, "ascending"),
        ({"dtype": "float16"}, "float16"),
        ({"d": 0}, "d_model is 0"),
        ({"shard_rows": 40}, "multiple of chunk_rows"),
        ({"heldout_share": 1.0}, "heldout_share is 1.0"),
    ],
)
def test_refuses_an_impossible_plan(changes, said):
    with pytest.raises(UserError, match=said):
        make_plan(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vocab": Vocab("plain", ("a", "b"))}, "2 token strings; expected one for each of the 40"),
        ({"embedding": np.zeros((40, 15), np.float32)}, r"\(40, 15\); expected \(40, 16\)"),
        ({"embedding": np.full((40, 16), np.nan, np.float32)}, "not finite in row 0"),
        ({"unembedding": np.zeros((40, 16), np.float32)}, "untied"),
        (
            {"final_norm": {"kind": "batchnorm", "eps": 0.0, "weight": [], "bias": None}},
            "batchnorm",
        ),
        (
            {"final_norm": {"kind": "rmsnorm", "eps": 0.0, "weight": [1.0], "bias": None}},
            r"weight of shape \(1,\)",
        ),
    ],
)
def test_refuses_a_vocabulary_that_does_not_fit_and_writes_nothing(tmp_path, changes, said):
    plan = make_plan()
    with pytest.raises(UserError, match=said):
        CacheWriter(str(tmp_path / "c"), plan, replace(make_vocabulary(plan), **changes))
    assert not (tmp_path / "c").exists()


def test_refuses_no_rows_and_a_document_in_both_splits(tmp_path):
    plan = make_plan()
    rows = make_rows(plan, 50)
    with CacheWriter(str(tmp_path / "c"), plan, make_vocabulary(plan)) as writer:
        with pytest.raises(UserError, match="no training rows"):
            writer.finish()
        append(writer, "train", rows)
        append(writer, "heldout", rows)
        with pytest.raises(UserError, match="lies in both splits"):
            writer.finish()
    with pytest.raises(UserError, match="unfinished"):
        Cache.open(str(tmp_path / "c"))


@pytest.mark.fault
def test_open_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="found nothing"):
        Cache.open(str(tmp_path / "absent"))
    (tmp_path / "foreign").mkdir()
    write_bytes(tmp_path / "foreign/notes.txt", b"hello")
    with pytest.raises(UserError, match=r"found no manifest\.json"):
        Cache.open(str(tmp_path / "foreign"))
    write_bytes(tmp_path / "foreign/manifest.json", b'{"format": "else"}')
    with pytest.raises(UserError, match="says its format is 'else'"):
        Cache.open(str(tmp_path / "foreign"))
    write_bytes(tmp_path / "foreign/manifest.json", b"{oops")
    with pytest.raises(UserError, match="is not JSON"):
        Cache.open(str(tmp_path / "foreign"))
    for url in ("http://host/cache", "gs://"):
        with pytest.raises(UserError, match="expected a directory, gs:// or s3:// URL"):
            Cache.open(url)


def test_open_refuses_newer_and_garbled_manifests(tmp_path):
    cache = make_cache(tmp_path)
    path = tmp_path / "cache/manifest.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    write_bytes(path, json.dumps(value | {"version": 3}).encode())
    with pytest.raises(UserError, match="cache of version 3; expected version 1 or 2"):
        Cache.open(cache.url)
    write_bytes(path, json.dumps(value | {"complete": False}).encode())
    with pytest.raises(UserError, match="unfinished"):
        Cache.open(cache.url)
    del value["splits"]
    write_bytes(path, json.dumps(value).encode())
    with pytest.raises(UserError, match="cannot be understood"):
        Cache.open(cache.url)


def test_a_cache_of_version_1_is_read(tmp_path):
    cache = make_cache(tmp_path, rows=100)
    expected = {split: cache.acts(3, split).read(0, 20) for split in ("train", "heldout")}
    for path in [*tmp_path.rglob("layers.*")]:
        path.rename(path.with_name(f"layer_0{path.name.split('.')[1]}"))
    value = json.loads((tmp_path / "cache/manifest.json").read_text(encoding="utf-8"))
    del value["sites"], value["checksum"]
    shards = {
        re.sub(r"layers\.(\d)\.resid_post", r"layer_0\1", key): listed
        for key, listed in value["shards"].items()
    }
    old = value | {"version": 1, "site": "resid_post", "layers": [1, 3], "shards": shards}
    old["checksum"] = checksum(old)
    write_bytes(tmp_path / "cache/manifest.json", json.dumps(old).encode())
    read = Cache.open(cache.url)
    assert read.manifest.sites == (Site(1), Site(3))
    for split, rows in expected.items():
        np.testing.assert_array_equal(read.acts(Site(3), split).read(0, 20), rows)
    assert verify(cache.url) == []


def test_an_unfinished_cache_of_version_1_is_not_continued(tmp_path):
    plan, url = make_plan(), str(tmp_path / "cache")
    with CacheWriter(url, plan, make_vocabulary(plan)) as writer:
        append(writer, "train", make_rows(plan, 100))
    journal = json.loads((tmp_path / "cache/journal.json").read_text(encoding="utf-8"))
    del journal["plan"]["version"], journal["plan"]["sites"]
    journal["plan"] |= {"site": "resid_post", "layers": [1, 3]}
    write_bytes(tmp_path / "cache/journal.json", json.dumps(journal | {"version": 1}).encode())
    with pytest.raises(UserError, match="with version 1; expected 2"):
        CacheWriter(url, plan, make_vocabulary(plan))


def test_reader_names_what_there_is(tmp_path):
    cache = make_cache(tmp_path, heldout=0)
    with pytest.raises(UserError, match=r"no layers\.2\.resid_post; .*layers\.1\.resid_post, l"):
        cache.acts(2, "train")
    with pytest.raises(UserError, match="no split 'test'; expected one of train, heldout"):
        cache.acts(1, "test")
    with pytest.raises(UserError, match="no rows in its split 'heldout'"):
        cache.acts(1, "heldout")
    with pytest.raises(UserError, match="no column 'names'"):
        cache.column("names", "train")
    assert verify(cache.url) == []


def test_a_complete_cache_is_replaced_only_when_asked(tmp_path):
    old = make_cache(tmp_path, rows=500, layers=(1, 3))
    plan = make_plan(layers=(2,))
    with pytest.raises(UserError, match="complete cache; expected a new place, or --overwrite"):
        CacheWriter(old.url, plan, make_vocabulary(plan))
    assert verify(old.url) == []
    with CacheWriter(old.url, plan, make_vocabulary(plan), overwrite=True) as writer:
        append(writer, "train", make_rows(plan, 100))
        writer.finish()
    assert Cache.open(old.url).manifest.sites == (Site(2),)
    assert not list((tmp_path / "cache").rglob("layers.1.resid_post*"))
    assert verify(old.url) == []


@pytest.mark.fault
@pytest.mark.parametrize("complete", [False, True])
def test_nothing_is_deleted_through_a_link_or_of_a_repository(tmp_path, complete):
    cache, plan = make_cache(tmp_path, rows=100), make_plan()
    place, elsewhere = Path(cache.url), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("precious", encoding="utf-8")
    (place / "anchors").symlink_to(elsewhere)
    if not complete:
        (place / "manifest.json").unlink()
        (place / "journal.json").write_bytes(journal_bytes(plan, {}, {}))
    with pytest.raises(UserError, match="anchors is a link"):
        CacheWriter(cache.url, plan, make_vocabulary(plan), overwrite=complete)
    (place / "anchors").unlink()
    (place / ".git").mkdir()
    with pytest.raises(UserError, match="git repository"):
        CacheWriter(cache.url, plan, make_vocabulary(plan), overwrite=True)
    assert (elsewhere / "thesis.txt").read_text(encoding="utf-8") == "precious"


@pytest.mark.parametrize("overwrite", [False, True])
def test_never_deletes_what_is_not_a_cache(tmp_path, overwrite):
    plan = make_plan()
    place = tmp_path / "thesis"
    place.mkdir()
    write_bytes(place / "chapter1.txt", b"years of work")
    with pytest.raises(UserError, match="not a cache"):
        CacheWriter(str(place), plan, make_vocabulary(plan), overwrite=overwrite)
    write_bytes(place / "manifest.json", b'{"format": "thesis"}')
    with pytest.raises(UserError, match="not of a cache"):
        CacheWriter(str(place), plan, make_vocabulary(plan), overwrite=overwrite)
    assert sorted(p.name for p in place.iterdir()) == ["chapter1.txt", "manifest.json"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    plan = make_plan()
    write_bytes(tmp_path / "file", b"")
    for url in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(UserError, match=r"file"):
            CacheWriter(str(url), plan, make_vocabulary(plan))


@pytest.mark.fault
def test_a_write_that_fails_leaves_durable_rows_alone(tmp_path):
    whole = make_cache(tmp_path, rows=200, d=64, heldout=0, dtype="float32", name="whole")
    plan = make_plan(64, dtype="float32")
    rows, url = make_rows(plan, 200), str(tmp_path / "cut")
    with CacheWriter(url, plan, make_vocabulary(plan)) as writer:
        append(writer, "train", rows.part(0, 64))
    with CacheWriter(url, plan, make_vocabulary(plan)) as writer, full_beyond(12_000):
        assert writer.rows_done("train") == 64
        with pytest.raises(UserError, match="grew too large; expected a writable place with free"):
            append(writer, "train", rows.part(64, 200), start=64)
        with pytest.raises(UserError, match="grew too large"):
            writer.finish()
    with CacheWriter(url, plan, make_vocabulary(plan)) as writer:
        assert writer.rows_done("train") == 64
        append(writer, "train", rows, start=0)
        writer.finish()
    assert Cache.open(url).digest == whole.digest
    assert verify(url) == []


def test_info_tells_what_matters(tmp_path):
    text = info(make_cache(tmp_path, rows=1234).url)
    for part in ("tiny", "gpt2", "1,234 rows", "bfloat16", "20 tokens", "made up"):
        assert part in text
    assert "layers.1.resid_post, layers.3.resid_post" in text


def test_the_example_in_the_docs_reads_a_cache(tmp_path):
    cache = make_cache(tmp_path, rows=1100)
    text = (Path(__file__).parents[2] / "docs/cache.md").read_text(encoding="utf-8")
    program = text.split("```python\n")[1].split("```")[0]
    command = [sys.executable, "-c", program, cache.url]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "(1000, 16) rows of layers.1.resid_post of tiny" in shown


@pytest.mark.fault
def test_an_unfinished_cache_says_how_far_it_is(tmp_path):
    plan = make_plan()
    for name, expected, said in (
        ("told", {"train": 300, "heldout": 50}, "64 rows done of 350"),
        ("not", None, "64 rows done"),
    ):
        url, vocabulary = str(tmp_path / name), make_vocabulary(plan)
        with CacheWriter(url, plan, vocabulary, expected=expected) as writer:
            append(writer, "train", make_rows(plan, 100))  # of which one shard of 64 is durable
        with pytest.raises(UserError, match=rf"is an unfinished cache with {said}; expected a c"):
            Cache.open(str(tmp_path / name))
    (tmp_path / "not" / "journal.json").write_text('{"shards": 3}', encoding="utf-8")
    with pytest.raises(UserError, match=r"with a journal\.json that cannot be understood"):
        Cache.open(str(tmp_path / "not"))


@pytest.mark.fault
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d": 24}, "d_model 16; expected 24"),
        ({"vocab": 41}, "vocab_size 40; expected 41"),
        ({"dtype": "float32"}, "dtype bfloat16; expected float32"),
        ({"layers": (1, 4)}, r"sites .*layers.3.resid_post.*; expected .*layers.4.resid_post"),
        ({"model": ModelInfo("tiny", "v2", "gpt2", "0" * 64)}, "model .*'main'.*; expected .*'v2'"),
        ({}, r"tokens \w{64}; expected \w{64}"),  # another tokenizer
    ],
)
def test_an_unfinished_cache_is_not_continued_by_another_model(tmp_path, changes, said):
    plan, url = make_plan(), str(tmp_path / "cache")
    with CacheWriter(url, plan, make_vocabulary(plan)) as writer:
        append(writer, "train", make_rows(plan, 100))
    other = make_plan(**changes)
    vocabulary = make_vocabulary(other)
    if not changes:
        reverse = Vocab("plain", vocabulary.vocab.raw[::-1])
        vocabulary = replace(vocabulary, vocab=reverse)
    with pytest.raises(UserError, match=f"is an unfinished cache with {said}"):
        CacheWriter(url, other, vocabulary)
