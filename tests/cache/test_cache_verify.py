"""verify finds each kind of damage and names the file."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cache_fixtures import append, make_cache, make_plan, make_rows, make_vocabulary

from vasae_jax.cache import Cache, CacheWriter, verify
from vasae_jax.cache.manifest import checksum
from vasae_jax.utils.errors import UserError


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    return make_cache(folder, rows=150, heldout=50, tied=False, layers=(1,)).url


@pytest.fixture
def copy(tmp_path, sound):
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def problems(folder):
    try:
        return " | ".join(verify(str(folder)))
    except UserError as error:
        return str(error)


@pytest.mark.fault
def test_a_flipped_bit_in_any_file(sound, tmp_path):
    rng = np.random.default_rng(0)
    for path in sorted(path for path in Path(sound).rglob("*") if path.is_file()):
        shutil.copytree(sound, tmp_path / "copy")
        name = path.relative_to(sound)
        data = bytearray(path.read_bytes())
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        (tmp_path / "copy" / name).write_bytes(data)
        expected = str(name.parent if name.name == "zarr.json" else name)
        assert expected in problems(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")


@pytest.mark.fault
@pytest.mark.parametrize("keep", [None, 0, 100])
def test_a_deleted_or_truncated_file(sound, tmp_path, keep):
    names = [path.relative_to(sound) for path in Path(sound).rglob("*") if path.is_file()]
    for name in sorted(set(names) - {Path("manifest.json")}):
        shutil.copytree(sound, tmp_path / "copy")
        path = tmp_path / "copy" / name
        if keep is None:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:keep])
        expected = str(name.parent if name.name == "zarr.json" else name)
        assert expected in problems(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")


def edit(folder, change):
    """Change the manifest's JSON and give it a checksum that fits."""
    path = folder / "manifest.json"
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    value["checksum"] = checksum(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def test_wrong_counts(copy):
    edit(copy, lambda value: value["splits"]["train"].update(documents=77))
    assert "train/docs has" in problems(copy)
    assert "expected 77" in problems(copy)
    edit(copy, lambda value: value["splits"]["train"].update(rows=151))
    assert "train/tokens has 150 rows in its shards; expected 151" in problems(copy)


def test_rows_beyond_the_count_are_not_believed(copy):
    def change(value):
        value["splits"]["heldout"]["rows"] = 49
        for key, shards in value["shards"].items():
            if key.startswith("heldout"):
                shards[-1]["rows"] -= 1

    edit(copy, change)
    assert "heldout/tokens" in problems(copy)


def test_an_edited_manifest(copy):
    path = copy / "manifest.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"tiny"', '"tidy"'), encoding="utf-8")
    assert "manifest.json does not have the checksum" in problems(copy)


def rewrite(folder, key, row, value):
    """Change one row through the reader's own array, as a well-formed shard file."""
    cache = Cache.open(str(folder))
    column = key.startswith("train/tokens")
    array = cache.column("tokens", "train") if column else cache.acts(1, "train")
    array.tensorstore[row].write(value).result()


def accept(folder):
    """Enter the digests of the files as they are."""

    def change(value):
        from vasae_jax.cache.manifest import shard_key
        from vasae_jax.utils.files import sha256_file

        for key, shards in value["shards"].items():
            for index, shard in enumerate(shards):
                shard["sha256"] = sha256_file(folder / shard_key(key, index))

    edit(folder, change)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (
            "train/acts",
            np.full(16, np.nan, ml_dtypes.bfloat16),
            "train/acts/layers.1.resid_post is not finite",
        ),
        ("train/acts", np.ones(16, ml_dtypes.bfloat16), "train/norms/layers.1.resid_post has"),
        ("train/tokens", np.int32(40), "train/tokens has token 40 in row 33"),
    ],
)
def test_content_that_was_wrong_when_written(copy, key, value, said):
    rewrite(copy, key, 33, value)
    accept(copy)
    assert said in problems(copy)


@pytest.mark.fault
def test_a_read_of_damaged_rows_names_the_file(copy):
    path = copy / "train/acts/layers.1.resid_post/c/0/0"
    data = bytearray(path.read_bytes())
    data[5] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"train/acts/layers\.1\.resid_post/c/0/0"):
        Cache.open(str(copy)).acts(1, "train").read(0, 16)
    (copy / "train/acts/layers.1.resid_post/c/1/0").unlink()
    with pytest.raises(UserError, match=r"train/acts/layers\.1\.resid_post/c/1/0"):
        Cache.open(str(copy)).acts(1, "train").read(64, 80)


def test_verify_of_no_cache_is_refused(tmp_path):
    plan = make_plan()
    with pytest.raises(UserError, match="no activation cache"):
        verify(str(tmp_path / "absent"))
    with CacheWriter(str(tmp_path / "cache"), plan, make_vocabulary(plan)) as writer:
        append(writer, "train", make_rows(plan, 20))
    with pytest.raises(UserError, match="unfinished"):
        verify(str(tmp_path / "cache"))
