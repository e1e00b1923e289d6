"""A killed extraction goes on and ends with the bytes of one that was never killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cache_fixtures import append, make_plan, make_rows, make_vocabulary

from vasae_jax.cache import Cache, CacheWriter, store, verify
from vasae_jax.cache import writer as writer_module
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_file, write_bytes

PLAN = make_plan(chunk_rows=8, shard_rows=32, tied=False)
BATCH = 20
ROWS = {"train": make_rows(PLAN, 110), "heldout": make_rows(PLAN, 50, seed=1, first_doc=10_000)}


class KilledError(BaseException):
    """Stands for a kill: nothing but the test catches it."""


def extract(url):
    """Appends all rows in batches as an extraction does, except those that are durable."""
    with CacheWriter(url, PLAN, make_vocabulary(PLAN)) as writer:
        for start in range(0, 120, BATCH):
            for split, rows in ROWS.items():
                part = rows.part(start, start + BATCH)
                if len(part.docs) and start + len(part.docs) > writer.rows_done(split):
                    append(writer, split, part, start=start)
        writer.finish()


def digests(url):
    files = (path for path in Path(url).rglob("*") if path.is_file())
    return {str(path.relative_to(url)): sha256_file(path) for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("whole") / "cache")
    extract(url)
    assert verify(url) == []
    return digests(url)


def kill_at(monkeypatch, point):
    """Raise KilledError instead of the ``point``-th durable write; count them all."""
    count = [0]

    def guarded(real):
        def call(*args):
            count[0] += 1
            if count[0] > point:
                raise KilledError
            return real(*args)

        return call

    monkeypatch.setattr(store.Store, "write", guarded(store.Store.write))
    monkeypatch.setattr(store.Store, "delete", guarded(store.Store.delete))
    monkeypatch.setattr(writer_module, "write_all", guarded(writer_module.write_all))
    monkeypatch.setattr(writer_module, "resize", guarded(writer_module.resize))
    return count


@pytest.mark.slow
@pytest.mark.fault
def test_killed_at_every_point_and_resumed(tmp_path, monkeypatch, whole):
    with monkeypatch.context() as patch:
        count = kill_at(patch, 10**9)
        extract(str(tmp_path / "counted"))
    assert count[0] > 30
    for point in range(count[0]):
        url = str(tmp_path / str(point))
        with monkeypatch.context() as patch, pytest.raises(KilledError):
            kill_at(patch, point)
            extract(url)
        if "manifest.json" not in digests(url):  # else only the journal was still to go
            with pytest.raises(UserError):
                Cache.open(url)
            extract(url)
        found = digests(url)
        found.pop("journal.json", None)
        assert found == whole, f"killed at durable point {point}"


def test_killed_twice_with_leftovers_of_a_half_written_shard(tmp_path, whole):
    url = str(tmp_path / "cache")
    for stop in (60, 100):
        with CacheWriter(url, PLAN, make_vocabulary(PLAN)) as writer:
            done = writer.rows_done("train")
            append(writer, "train", ROWS["train"].part(done, stop))
        write_bytes(f"{url}/train/acts/layers.1.resid_post/c/{stop // 32}/0", b"half a shard")
        write_bytes(f"{url}/train/acts/layers.3.resid_post/c/{stop // 32}/0.__lock", b"")
    extract(url)
    assert digests(url) == whole


@pytest.mark.fault
def test_killed_by_the_system(tmp_path, whole):
    url = str(tmp_path / "cache")
    program = (
        "import os, signal, sys\n"
        f"sys.path[:0] = {[str(Path(__file__).parents[1])]!r}\n"
        "import test_cache_resume as test\n"
        "from vasae_jax.cache import writer\n"
        "real, count = writer.write_all, [0]\n"
        "def write_all(writes):\n"
        "    count[0] += 1\n"
        "    if count[0] == 4:\n"
        "        for array, start, rows in writes:\n"
        "            array[start : start + len(rows)].write(rows)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(writes)\n"
        "writer.write_all = write_all\n"
        f"test.extract({url!r})\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert died.returncode == -signal.SIGKILL
    with CacheWriter(url, PLAN, make_vocabulary(PLAN)) as writer:
        assert writer.rows_done("train") + writer.rows_done("heldout") == 3 * 32
    extract(url)
    assert digests(url) == whole


def test_an_unequal_plan_is_refused_by_its_first_key(tmp_path):
    url = str(tmp_path / "cache")
    with CacheWriter(url, PLAN, make_vocabulary(PLAN)) as writer:
        append(writer, "train", ROWS["train"].part(0, 64))
    other = make_plan(chunk_rows=8, shard_rows=32, tied=False, context_length=21, bos=True)
    before = digests(url)
    with pytest.raises(UserError, match="with context_length 20; expected 21 to resume"):
        CacheWriter(url, other, make_vocabulary(other))
    with pytest.raises(UserError, match=r"with vocab/embedding|with embedding"):
        CacheWriter(url, PLAN, make_vocabulary(PLAN, seed=5))
    assert digests(url) == before
    with CacheWriter(url, other, make_vocabulary(other), overwrite=True) as writer:
        assert writer.rows_done("train") == 0


def test_a_garbled_journal_is_named(tmp_path):
    url = str(tmp_path / "cache")
    CacheWriter(url, PLAN, make_vocabulary(PLAN)).close()
    journal = Path(url) / "journal.json"
    journal.write_bytes(journal.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"journal\.json is not JSON"):
        CacheWriter(url, PLAN, make_vocabulary(PLAN))
    journal.write_text('{"format": "vasae-cache", "version": 1}', encoding="utf-8")
    with pytest.raises(UserError, match=r"journal\.json cannot be understood"):
        CacheWriter(url, PLAN, make_vocabulary(PLAN))
