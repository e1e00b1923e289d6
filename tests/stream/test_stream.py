"""Batches against a plain reimplementation, from any start and any number of processes."""

import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from cache_fixtures import make_cache
from test_stream_order import reader_sequence

from vasae_jax.cache import RowArray
from vasae_jax.config import Mask
from vasae_jax.stream.order import Shuffle
from vasae_jax.stream.prefetch import Prefetch
from vasae_jax.stream.source import median_norm, rows_in_order
from vasae_jax.stream.statistics import statistics
from vasae_jax.stream.stream import Stream, entropy_bits
from vasae_jax.utils.errors import UserError

LAYER = 3
MASK, NO_MASK = Mask(skip_positions=1, max_norm=1.2), Mask(skip_positions=0, max_norm=0.0)
SHUFFLE = Shuffle(batch=60, seed=0, readers=4, shuffle_chunks=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("stream"), rows=1000, heldout=203)


@pytest.fixture(scope="module")
def memory(cache):
    """The training split in memory, with MASK spelled out."""
    rows = cache.manifest.splits["train"].rows
    x = cache.acts(LAYER, "train").read(0, rows)
    positions = cache.column("positions", "train").read(0, rows)
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    keep = (positions >= 1) & (norms <= 1.2 * np.median(norms[positions >= 1]))
    assert 0.1 < keep[positions >= 1].mean() < 0.9
    return x, keep, cache.column("docs", "train").read(0, rows)


def make_stream(cache, batch=60, seed=0, readers=4, shuffle_chunks=3, **process):
    return Stream(
        cache, [LAYER], "train", MASK, Shuffle(batch, seed, readers, shuffle_chunks), **process
    )


def same(one, other):
    for name in ("x", "keep", "docs"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_batches_equal_the_slow_twin(cache, memory):
    stream = make_stream(cache, batch=60)
    readers = [reader_sequence(stream.order, reader, 5) for reader in range(4)]
    for step in range(70):
        batch = stream.batches(step)[0]
        rows = [row for reader in readers for row in reader[step * 15 : (step + 1) * 15]]
        assert batch.x.dtype == ml_dtypes.bfloat16
        for found, expected in zip((batch.x, batch.keep, batch.docs), memory, strict=True):
            np.testing.assert_array_equal(found, expected[rows])


def test_a_batch_may_span_groups_and_epochs(cache, memory):
    stream = make_stream(cache, batch=2400, readers=4, shuffle_chunks=1)
    readers = [reader_sequence(stream.order, reader, 5) for reader in range(4)]
    rows = [row for reader in readers for row in reader[600:1200]]
    np.testing.assert_array_equal(stream.batches(1)[0].x, memory[0][rows])


def test_random_access_equals_walking_on(cache):
    walked = make_stream(cache)
    batches = {step: walked.batches(step)[0] for step in range(60)}
    jumped = make_stream(cache)
    for step in (17, 3, 59, 4, 5, 5, 0, 40):
        same(jumped.batches(step)[0], batches[step])
    same(make_stream(cache).batches(33)[0], batches[33])
    with pytest.raises(UserError, match="batch -1"):
        jumped.batches(-1)[0]


@pytest.mark.fault
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_same_global_batches(cache, processes):
    whole = make_stream(cache)
    parts = [
        make_stream(cache, process_index=index, process_count=processes)
        for index in range(processes)
    ]
    for step in (0, 1, 25):
        batch, local = whole.batches(step)[0], [part.batches(step)[0] for part in parts]
        for name in ("x", "keep", "docs"):
            joined = np.concatenate([getattr(part, name) for part in local])
            np.testing.assert_array_equal(joined, getattr(batch, name))


def record_reads(monkeypatch):
    reads = []
    real = RowArray.read_into

    def read_into(self, start, stop, out):
        reads.append((Path(self.name).parent.name, start // self.chunk_rows))
        return real(self, start, stop, out)

    monkeypatch.setattr(RowArray, "read_into", read_into)
    return reads


def test_each_row_is_read_once_an_epoch_and_only_by_its_owner(cache, monkeypatch):
    stream = make_stream(cache, process_index=1, process_count=2)
    reads = []
    real = RowArray.read_into

    def read_into(self, start, stop, out):
        if "acts" in self.name:
            reads.extend(range(start, stop))
        return real(self, start, stop, out)

    monkeypatch.setattr(RowArray, "read_into", read_into)
    own = set(reader_sequence(stream.order, 2, 1) + reader_sequence(stream.order, 3, 1))
    epochs = 3
    steps = epochs * stream.order.epoch_rows // 15
    for step in range(steps):
        stream.batches(step)[0]
    assert len(own) == 500
    assert set(reads) == own
    ahead = 2 * 2 * 3 * 16  # two readers, two groups of three chunks beyond the last full epoch
    assert epochs * len(own) <= len(reads) <= epochs * len(own) + ahead
    stats = stream.stats()
    assert stats.rows == steps * 30
    assert stats.bytes > stats.rows * 16 * 2
    assert stats.bytes_per_second > 0
    assert stats.document_bits > 1


def test_columns_that_no_mask_needs_are_not_read(cache, monkeypatch):
    reads = record_reads(monkeypatch)
    stream = Stream(cache, [LAYER], "train", NO_MASK, SHUFFLE)
    assert stream.batches(0)[0].keep.all()
    assert len([kind for kind, _ in reads if kind != "acts"]) == len(reads) // 2  # docs alone


def test_streams_refuse_what_the_cache_lacks(cache):
    with pytest.raises(UserError, match=r"no layers\.2"):
        Stream(cache, [2], "train", MASK, SHUFFLE)
    with pytest.raises(UserError, match="no split 'dev'"):
        Stream(cache, [LAYER], "dev", MASK, SHUFFLE)
    with pytest.raises(UserError, match="expected readers=60"):
        make_stream(cache, batch=600, readers=100)
    with pytest.raises(UserError, match="not negative"):
        Stream(cache, [LAYER], "train", Mask(-1, 0.0), SHUFFLE)
    with pytest.raises(UserError, match="smaller skip_positions"):
        Stream(cache, [LAYER], "train", Mask(1000, 5.0), SHUFFLE)


def test_prefetch_yields_the_batches_in_order(cache):
    plain, stream = make_stream(cache), make_stream(cache)
    with stream.prefetch(7) as batches:
        for step in range(7, 30):
            number, (batch,) = next(batches)
            assert number == step
            same(batch, plain.batches(step)[0])
        assert 0 <= stream.stats().queued <= 3
    assert list(batches) == []


def test_prefetch_closes_while_it_waits_for_room():
    before = threading.active_count()
    made = []

    def source():
        for number in range(10**9):
            made.append(number)
            yield number

    ahead = Prefetch(source(), 2)
    assert [next(ahead), next(ahead)] == [0, 1]
    ahead.close()
    ahead.close()
    assert threading.active_count() == before
    assert len(made) <= 5
    assert list(ahead) == []


def test_prefetch_ends_with_its_source_and_passes_its_error_on():
    assert list(Prefetch(iter("abc"), 2)) == ["a", "b", "c"]

    def source():
        yield 1
        raise UserError("a chunk is gone")

    ahead = Prefetch(source(), 2)
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(UserError, match="a chunk is gone"):
            next(ahead)


@pytest.mark.fault
def test_a_damaged_chunk_stops_the_consumer(tmp_path):
    cache = make_cache(tmp_path, rows=500)
    shard = tmp_path / "cache/train/acts/layers.3.resid_post/c/2/0"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with (
        make_stream(cache).prefetch(0) as batches,
        pytest.raises(UserError, match=r"train/acts/layers\.3\.resid_post/c/2/0"),
    ):
        for step, _ in batches:
            assert step < 20


@pytest.mark.parametrize("size", [7, 16, 50, 203, 1000])
def test_rows_in_order(cache, size):
    x = cache.acts(LAYER, "heldout").read(0, 203)
    docs = cache.column("docs", "heldout").read(0, 203)
    keep = cache.column("positions", "heldout").read(0, 203) >= 2
    batches = list(rows_in_order(cache, LAYER, "heldout", Mask(2, 0.0), batch=size))
    assert {len(batch.keep) for batch in batches} == {size}
    assert len(batches) == -(-203 // size)
    joined = [
        np.concatenate([getattr(batch, name) for batch in batches])
        for name in ("x", "keep", "docs")
    ]
    for found, expected in zip(joined, (x, keep, docs), strict=True):
        np.testing.assert_array_equal(found[:203], expected)
    assert not joined[0][203:].any()
    assert not joined[1][203:].any()
    assert (joined[2][203:] == -1).all()


def test_rows_in_order_reads_each_chunk_once(cache, monkeypatch):
    reads = record_reads(monkeypatch)
    list(rows_in_order(cache, LAYER, "heldout", NO_MASK, batch=50))
    assert sorted(chunk for kind, chunk in reads if kind == "acts") == [0, 3, 6, 9, 12]
    with pytest.raises(UserError, match=r"no layers\.0"):
        rows_in_order(cache, 0, "heldout", NO_MASK, batch=50)


def test_statistics_equal_the_slow_twin(cache, memory):
    x, keep, _ = memory
    kept = x[keep].astype(np.float64)
    stats = statistics(cache, LAYER, "train", MASK)
    np.testing.assert_allclose(stats.mean, kept.mean(axis=0), rtol=1e-12, atol=1e-12)
    variance = np.square(kept - kept.mean(axis=0)[None, :]).sum(axis=1).mean()
    np.testing.assert_allclose(stats.variance, variance, rtol=1e-12)
    positions = cache.column("positions", "train").read(0, 1000)
    norms = np.linalg.norm(x.astype(np.float64), axis=1)[positions >= 1]
    median = median_norm(cache, LAYER, "train", MASK)
    np.testing.assert_allclose(median, np.median(norms), rtol=1e-6)
    assert stats.rows == keep.sum()


def test_statistics_of_a_sample_are_of_spread_whole_chunks(cache, memory):
    x, keep, _ = memory
    rows = np.concatenate([np.arange(start * 16, start * 16 + 16) for start in (0, 15, 31, 47)])
    part = x[rows][keep[rows]].astype(np.float64)
    stats = statistics(cache, LAYER, "train", MASK, max_rows=64)
    np.testing.assert_allclose(stats.mean, part.mean(axis=0), rtol=1e-12, atol=1e-12)
    assert stats.rows == len(part)


def test_statistics_need_a_row(cache):
    with pytest.raises(UserError, match="no unmasked row"):
        statistics(cache, LAYER, "train", Mask(1, 1e-9))


def test_entropy_over_documents():
    assert entropy_bits(np.array([3, 3, 3])) == 0
    np.testing.assert_allclose(entropy_bits(np.array([1, 2, 3, 4] * 5)), 2)
