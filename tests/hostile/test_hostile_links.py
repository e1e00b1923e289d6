"""Links in a folder that was handed over: nothing is written or deleted through them."""

import os

import pytest
from cache_fixtures import append, make_cache, make_plan, make_rows, make_vocabulary

from vasae_jax.cache import CacheWriter, Part, PartWriter, finish
from vasae_jax.cache.store import Store
from vasae_jax.config import Config, DataConfig, RunConfig
from vasae_jax.quickstart import Quickstart, run_quickstart
from vasae_jax.sweep.points import Member, add_members
from vasae_jax.training.checkpoint import Checkpoints
from vasae_jax.training.run_dir import open_run
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.lock import OWNER, FolderLock
from vasae_jax.utils.replace import refuse_links

pytestmark = [pytest.mark.fault, pytest.mark.hostile]


@pytest.fixture
def elsewhere(tmp_path):
    """A folder of someone else's, which a test must leave as it is."""
    folder = tmp_path / "elsewhere"
    names = ("mine", "deleted/7/mine", "9.orbax-checkpoint-tmp-1/mine", "00000-of-00001.json")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious", encoding="utf-8")
    before = content(folder)
    yield folder
    assert content(folder) == before


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in files}


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def refused(path):
    return pytest.raises(UserError, match=f"{path} is a link")


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_a_lock_is_not_written_through_a_link(tmp_path, elsewhere, make):
    (tmp_path / "run").mkdir()
    make(elsewhere / "mine", tmp_path / "run" / OWNER)
    with refused(OWNER):
        FolderLock(tmp_path / "run")


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/deleted", "checkpoints/8"])
def test_checkpoints_are_not_saved_or_cleared_through_a_link(tmp_path, elsewhere, name):
    link(tmp_path / "run" / name, elsewhere)
    with refused(name):
        Checkpoints(tmp_path / "run")


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard", "checkpoints", "events.jsonl"])
def test_a_run_is_not_resumed_through_a_link(tmp_path, elsewhere, name):
    cache = make_cache(tmp_path, rows=40, heldout=20)
    run = RunConfig(out=str(tmp_path / "run"))
    config = Config(data=DataConfig(cache=cache.url), run=run)
    open_run(config, cache)
    link(tmp_path / "run" / name, elsewhere / "mine")
    with refused(name):
        open_run(config, cache)


@pytest.mark.parametrize(
    "name", ["anchors", "anchors/deep", "heldout", "train/acts/deep", "vocab/deep", "parts"]
)
def test_a_cache_is_not_continued_through_a_link(tmp_path, elsewhere, name):
    plan, url = make_plan(), tmp_path / "cache"
    with CacheWriter(str(url), plan, make_vocabulary(plan)) as writer:
        append(writer, "train", make_rows(plan, 70))
    if (url / name).is_dir():
        (url / name).rename(tmp_path / "aside")
    link(url / name, elsewhere)
    with refused(name):
        CacheWriter(str(url), plan, make_vocabulary(plan))


def test_parts_are_not_written_or_joined_through_a_link(tmp_path, elsewhere):
    plan = make_plan()
    link(tmp_path / "cache" / "parts", elsewhere)
    with refused("parts"):
        finish(str(tmp_path / "cache"))
    rows = {"train": 70, "heldout": 0}
    with refused("parts"):
        PartWriter(str(tmp_path / "cache"), plan, make_vocabulary(plan), rows, Part(0, 1))


@pytest.mark.parametrize("name", ["anchors", "anchors/site", "anchors/site/anchors.json"])
def test_nothing_is_added_to_a_cache_through_a_link(tmp_path, elsewhere, name):
    store = Store(str(tmp_path / "cache"))
    link(tmp_path / "cache" / name, elsewhere)
    with refused(name):
        store.write("anchors/site/anchors.json", b"ours")
    with refused(name):
        store.delete("anchors/site/anchors.json")
    with refused(name):
        store.create_array("anchors/site/anchors.json/array", {})


@pytest.mark.parametrize("name", ["sweep.lock", "runs", "runs/0123456789"])
def test_a_sweep_is_not_written_through_a_link(tmp_path, elsewhere, name):
    link(tmp_path / "sweep" / name, elsewhere if name == "runs" else elsewhere / "mine")
    with refused(name):
        add_members(tmp_path / "sweep", [Member("0123456789", "k=32", Config())])


@pytest.mark.parametrize("name", ["cache", "run", "report"])
def test_a_quickstart_is_not_continued_through_a_link(tmp_path, elsewhere, name):
    link(tmp_path / "out" / name, elsewhere)
    out, model = str(tmp_path / "out"), str(tmp_path / "none")
    args = Quickstart(out, model, "english", None, None, 100, overwrite=False)
    with refused(name):
        run_quickstart(args, lambda config: config)


def test_links_are_found_at_any_depth_when_asked(tmp_path, elsewhere):
    link(tmp_path / "ours" / "data" / "deep" / "link", elsewhere)
    refuse_links(tmp_path / "ours", ["data"])
    with refused("link"):
        refuse_links(tmp_path / "ours", ["data"], deep=True)
