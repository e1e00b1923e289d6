"""One trainer in a run directory, one writer of a cache: the second changes nothing."""

import contextlib
from dataclasses import replace

import pytest
from cache_fixtures import append, make_cache, make_plan, make_rows, make_vocabulary
from test_train import config_for

from vasae_jax.cache import Cache, CacheWriter
from vasae_jax.training.loop import train, train_pack
from vasae_jax.training.run_dir import claim_runs
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.lock import FolderLock

pytestmark = pytest.mark.fault
HELD = r"{}.owner\.json is held by process \d+ on .* since 20"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache"), rows=600, d=16, vocab=40, layers=(1, 3)).url


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_trainer_in_a_run_is_refused(cache, tmp_path, overwrite):
    config = config_for(cache, tmp_path / "run")
    with contextlib.ExitStack() as held:
        (run,) = claim_runs([config], Cache.open(cache), held)
        run.log({"step": 1})
        kept = {path: path.read_bytes() for path in run.path.iterdir()}
        again = replace(config, run=replace(config.run, overwrite=overwrite))
        with pytest.raises(UserError, match=HELD.format("run")):
            claim_runs([again], Cache.open(cache), held)
        assert {path: path.read_bytes() for path in run.path.iterdir()} == kept
    with contextlib.ExitStack() as held:
        claim_runs([again], Cache.open(cache), held)
        assert (run.path / "metrics.jsonl").exists() is not overwrite


def test_train_owns_its_run(cache, tmp_path):
    with FolderLock(tmp_path / "run"), pytest.raises(UserError, match=HELD.format("run")):
        train(config_for(cache, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_pack_that_shares_a_run_is_refused_and_makes_no_other(cache, tmp_path):
    configs = [config_for(cache, tmp_path / name) for name in ("a", "b", "c")]
    with FolderLock(tmp_path / "b"), pytest.raises(UserError, match=HELD.format("b")):
        train_pack(configs)
    assert not list(tmp_path.iterdir())


def test_a_run_whose_owner_was_killed_before_it_wrote_is_begun(cache, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "owner.json").write_text("", encoding="utf-8")
    with contextlib.ExitStack() as held:
        claim_runs([config_for(cache, tmp_path / "run")], Cache.open(cache), held)
    assert (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_writer_of_a_cache_is_refused(tmp_path, overwrite):
    plan, url = make_plan(), str(tmp_path / "cache")
    vocabulary = make_vocabulary(plan)
    with CacheWriter(url, plan, vocabulary) as first:
        append(first, "train", make_rows(plan, 70))
        with pytest.raises(UserError, match=HELD.format("cache")):
            CacheWriter(url, plan, vocabulary, overwrite=overwrite)
        append(first, "heldout", make_rows(plan, 20, first_doc=1000))
        first.finish()
    assert not (tmp_path / "cache" / "owner.json").exists()
