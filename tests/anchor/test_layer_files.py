"""Layer anchors beside the cache: kept once, checked when read, no part of the cache."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from cache_fixtures import append, make_cache, make_plan, make_rows, make_vocabulary

from vasae_jax.anchor import layer_anchors as make
from vasae_jax.anchor.layer_anchors import layer_anchors, problems, read_anchors
from vasae_jax.anchor.layer_rows import origin_of
from vasae_jax.cache import Cache, CacheWriter, verify
from vasae_jax.cli.main import main
from vasae_jax.utils.errors import UserError

FOLDER = Path("anchors") / "layers.3.resid_post-skip1-norm3.0"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache with the anchors of its layer 3."""
    cache = make_cache(tmp_path_factory.mktemp("kept"), rows=300, vocab=60)
    layer_anchors(cache, 3, 1, 3.0)
    return cache


@pytest.fixture
def copy(kept, tmp_path):
    shutil.copytree(kept.url, tmp_path / "copy")
    return Cache.open(str(tmp_path / "copy"))


def no_making(*_):
    raise AssertionError("anchors were made; expected those that are kept")


def read(cache):
    return read_anchors(cache, origin_of(cache, 3, 1, 3.0))


def refused(cache):
    with pytest.raises(UserError) as error:
        layer_anchors(cache, 3, 1, 3.0)
    assert problems(cache) == [str(error.value)]
    return str(error.value)


def test_what_is_made_once_is_read_after(kept, monkeypatch):
    made = make.make_anchors(kept, origin_of(kept, 3, 1, 3.0))
    monkeypatch.setattr(make, "make_anchors", no_making)
    found = layer_anchors(kept, 3, 1, 3.0)
    assert found.origin == made.origin and found.before_rows == made.before_rows
    assert found.at.explained == made.at.explained
    assert found.before.explained == made.before.explained
    for name, array in made.arrays().items():
        assert found.arrays()[name].dtype == array.dtype
        np.testing.assert_array_equal(found.arrays()[name], array)
    assert layer_anchors(kept, 3, 1, 3).origin == found.origin
    assert read_anchors(kept, origin_of(kept, 3, 1, 2.0)) is None
    assert read_anchors(kept, origin_of(kept, 1, 1, 3.0)) is None


def test_a_cache_is_as_sound_with_anchors_as_without(kept, capsys):
    assert verify(kept.url) == [] and problems(kept) == []
    assert main(["cache", "verify", kept.url]) == 0
    assert Cache.open(kept.url).digest == kept.digest


def test_a_flipped_bit_in_any_file_is_refused(kept, tmp_path):
    rng = np.random.default_rng(0)
    home = Path(kept.url)
    for path in sorted(path for path in (home / "anchors").rglob("*") if path.is_file()):
        shutil.copytree(home, tmp_path / "copy")
        data = bytearray(path.read_bytes())
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(7))
        name = path.relative_to(home)
        (tmp_path / "copy" / name).write_bytes(data)
        said = refused(Cache.open(str(tmp_path / "copy")))
        assert str(name).split("/c/")[0].removesuffix("/zarr.json") in said
        assert "expected" in said and "\n" not in said
        shutil.rmtree(tmp_path / "copy")


def test_another_content_under_the_same_checks_is_refused(copy):
    """A whole array swapped for another of its shape: only the digest tells."""
    home = Path(copy.url) / FOLDER
    at, before = (next(home.glob(f"{name}-*")) for name in ("at", "before"))
    shutil.rmtree(at)
    shutil.copytree(before, at)
    assert "has content of SHA-256" in refused(copy)


def test_a_lost_array_is_refused_and_lost_anchors_are_made(copy):
    home = Path(copy.url) / FOLDER
    shutil.rmtree(next(home.glob("before_within-*")))
    assert "before_within" in refused(copy)
    (home / "anchors.json").unlink()
    assert read(copy) is None and problems(copy) == []
    layer_anchors(copy, 3, 1, 3.0)
    assert read(copy) is not None and problems(copy) == []


def test_anchors_of_another_cache_are_refused(copy, tmp_path):
    other = make_cache(tmp_path, rows=301, vocab=60, name="other")
    shutil.copytree(Path(copy.url) / "anchors", Path(other.url) / "anchors")
    said = refused(other)
    assert f"is of cache {copy.digest}; expected {other.digest}" in said
    assert "--overwrite" in said


def test_anchors_of_another_layer_are_refused(copy):
    home = Path(copy.url) / "anchors"
    shutil.copytree(home / FOLDER.name, home / "layers.1.resid_post-skip1-norm3.0")
    with pytest.raises(UserError, match=r"is of site layers\.3\.resid_post; expected layers\.1"):
        layer_anchors(copy, 1, 1, 3.0)
    assert len(problems(copy)) == 1


@pytest.mark.parametrize("version", [1, 3])
def test_another_version_is_refused_until_they_are_made_anew(copy, version, capsys):
    manifest = Path(copy.url) / FOLDER / "anchors.json"
    manifest.write_text(
        manifest.read_text(encoding="utf-8").replace('"version": 2', f'"version": {version}'),
        encoding="utf-8",
    )
    said = refused(copy)
    assert f"has version {version}; expected 2" in said and "--overwrite" in said
    assert main(["anchors", copy.url, "--layers=3", "--overwrite"]) == 0
    assert read(copy) is not None and problems(copy) == []


def test_a_cache_that_cannot_be_written_is_used_all_the_same(tmp_path, capsys):
    cache = make_cache(tmp_path, rows=300, vocab=60)
    (tmp_path / "cache" / "anchors").write_text("in the way", encoding="utf-8")
    found = layer_anchors(cache, 3, 1, 3.0)
    said = capsys.readouterr().err
    assert said.count("used but not kept") == 1 and said.count("\n") == 1
    assert found.at.rows.any()
    assert (tmp_path / "cache" / "anchors").read_text(encoding="utf-8") == "in the way"


def test_a_cache_that_is_replaced_loses_its_anchors(copy):
    plan = make_plan(vocab=60)
    with CacheWriter(copy.url, plan, make_vocabulary(plan), overwrite=True) as writer:
        append(writer, "train", make_rows(plan, 200))
        writer.finish()
    assert not (Path(copy.url) / "anchors").exists()
    assert layer_anchors(Cache.open(copy.url), 3, 1, 3.0).origin.cache != copy.digest
