"""The same cache in a bucket, over TensorStore's own Google Cloud Storage driver."""

import os
import re

import pytest
from cache_bucket import Bucket
from cache_fixtures import append, make_plan, make_rows, make_vocabulary

from vasae_jax.anchor.layer_anchors import layer_anchors, problems, read_anchors, remove_anchors
from vasae_jax.anchor.layer_rows import origin_of
from vasae_jax.cache import Cache, CacheWriter, info, verify
from vasae_jax.cache import store as waiting
from vasae_jax.config import Mask
from vasae_jax.stream.order import Shuffle
from vasae_jax.stream.stream import Stream
from vasae_jax.utils.errors import UserError

URL = "gs://bucket/some/cache"


@pytest.fixture(scope="module")
def server():
    bucket = Bucket()
    # Read once a process by TensorStore, so there is one server for the module.
    os.environ["TENSORSTORE_GCS_HTTP_URL"] = bucket.url
    os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "any"
    yield bucket
    bucket.close()


@pytest.fixture
def bucket(server):
    server.objects.clear()
    return server


def write(url, rows, heldout, finish=True):
    plan = make_plan()
    with CacheWriter(url, plan, make_vocabulary(plan)) as writer:
        append(writer, "train", make_rows(plan, rows), start=0)
        append(writer, "heldout", make_rows(plan, heldout, seed=1, first_doc=10_000), start=0)
        if finish:
            writer.finish()


def test_a_bucket_holds_the_files_of_a_directory(bucket, tmp_path):
    write(URL, 300, 80)
    local = tmp_path / "cache"
    write(str(local), 300, 80)
    files = {str(p.relative_to(local)): p.read_bytes() for p in local.rglob("*") if p.is_file()}
    stored = {name: data for (_, name), (data, _) in bucket.objects.items()}
    assert stored == {f"some/cache/{name}": data for name, data in files.items()}
    assert verify(URL) == []
    assert "300 rows" in info(URL)
    shuffle = Shuffle(batch=64, seed=0, readers=4, shuffle_chunks=2)
    remote, near = (
        Stream(Cache.open(url), [3], "train", Mask(1, 10.0), shuffle).batches(3)[0]
        for url in (URL, str(local))
    )
    assert (remote.x == near.x).all()
    assert (remote.keep == near.keep).all()


def test_resume_refusal_and_damage_in_a_bucket(bucket):
    write(URL, 150, 70, finish=False)
    with pytest.raises(UserError, match="unfinished"):
        Cache.open(URL)
    write(URL, 300, 80)
    with pytest.raises(UserError, match="complete cache"):
        write(URL, 300, 80)
    key = ("bucket", "some/cache/train/acts/layers.1.resid_post/c/1/0")
    data, _ = bucket.objects[key]
    bucket.put(key, data[:-9] + b"x" + data[-8:])
    assert any(
        "train/acts/layers.1.resid_post/c/1/0 has SHA-256" in problem for problem in verify(URL)
    )
    del bucket.objects[key]
    assert any(
        "train/acts/layers.1.resid_post/c/1/0 is missing" in problem for problem in verify(URL)
    )
    with pytest.raises(UserError, match=r"train/acts/layers\.1\.resid_post"):
        Cache.open(URL).acts(1, "train").read(64, 80)


def test_a_prefix_with_other_files_is_refused(bucket):
    bucket.put(("bucket", "some/cache/notes.txt"), b"mine")
    with pytest.raises(UserError, match="not a cache"):
        write(URL, 100, 0)
    assert list(bucket.objects) == [("bucket", "some/cache/notes.txt")]


def test_anchors_are_kept_in_a_bucket_as_in_a_directory(bucket, tmp_path):
    write(URL, 300, 80)
    local = tmp_path / "cache"
    write(str(local), 300, 80)
    for url in (URL, str(local)):
        layer_anchors(Cache.open(url), 3, 1, 3.0)
    files = {
        p.relative_to(local).as_posix(): p.read_bytes()
        for p in local.rglob("anchors/**/*")
        if p.is_file()
    }
    stored = {name: data for (_, name), (data, _) in bucket.objects.items() if "/anchors/" in name}
    assert files and stored == {f"some/cache/{name}": data for name, data in files.items()}
    remote = Cache.open(URL)
    assert read_anchors(remote, origin_of(remote, 3, 1, 3.0)) is not None
    assert verify(URL) == problems(remote) == []
    remove_anchors(remote, origin_of(remote, 3, 1, 3.0))
    assert not any("/anchors/" in name for _, name in bucket.objects)


@pytest.fixture
def quick(monkeypatch):
    """Retries that follow soon, three at most."""
    for name, value in {"max_retries": 3, "initial_delay": "10ms", "max_delay": "20ms"}.items():
        monkeypatch.setitem(waiting.RETRIES, name, value)


@pytest.mark.fault
def test_a_bucket_that_fails_for_a_moment_is_asked_again_and_that_is_said(bucket, quick, capsys):
    write(URL, 300, 80)
    acts = Cache.open(URL).acts(1, "train")
    whole = acts.read(0, 300)
    capsys.readouterr()
    bucket.failures = 2
    assert (Cache.open(URL).acts(1, "train").read(0, 300) == whole).all()
    said = capsys.readouterr().err
    assert bucket.failures == 0
    counts = re.findall(
        r"^the bucket failed for a moment: (\d) request\(s\) made again$", said, re.M
    )
    assert sum(map(int, counts)) == 2


@pytest.mark.fault
def test_a_bucket_that_fails_for_good_is_an_error_with_the_cause(bucket, quick):
    write(URL, 300, 80)
    bucket.failures = 1000
    with pytest.raises(UserError, match=r"All 3 retry attempts failed: Service Un.*; expected a"):
        Cache.open(URL)
    bucket.failures = 0
