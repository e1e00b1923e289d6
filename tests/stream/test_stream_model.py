"""The stream against a model of it, under Hypothesis: any shapes, hosts, masks and restarts.

Row i of a cache holds i, so that a batch says which rows it is made of.
"""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cache_fixtures import Rows, append, make_plan, make_vocabulary
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from test_stream_order import reader_sequence

from vasae_jax.cache import Cache, CacheWriter
from vasae_jax.config import Mask
from vasae_jax.stream.order import Shuffle
from vasae_jax.stream.stream import Stream

LAYER = 1


def numbered_cache(url, rows, chunk_rows, context):
    """A cache whose row i is [i, i + 1/2], at position i % context of document i // 5."""
    plan = make_plan(
        d=2, vocab=8, layers=(LAYER,), dtype="float32", chunk_rows=chunk_rows,
        shard_rows=8 * chunk_rows, context_length=context,
    )  # fmt: skip
    with CacheWriter(url, plan, make_vocabulary(plan)) as writer:
        ids = np.arange(rows, dtype=np.int32)
        acts = np.stack([ids, ids + 0.5], axis=1).astype(np.float32)
        append(writer, "train", Rows(ids % 8, ids % context, ids // 5, {LAYER: acts}))
        writer.finish()
    return Cache.open(url)


class Model(RuleBasedStateMachine):
    """Reads batches on some number of hosts, changes that number, and restarts anywhere."""

    @initialize(
        rows=st.integers(1, 120),
        chunk_rows=st.integers(1, 9),
        readers=st.sampled_from([1, 2, 3, 4, 6]),
        per_reader=st.integers(1, 7),
        shuffle_chunks=st.integers(1, 4),
        seed=st.integers(0, 2**64 - 1),
        mask=st.tuples(st.integers(0, 3), st.sampled_from([0.0, 0.5, 1.0, 1.7])),
    )
    def begin(self, rows, chunk_rows, readers, per_reader, shuffle_chunks, seed, mask):
        assume(rows > mask[0] and readers <= -(-rows // chunk_rows))
        self.folder = Path(tempfile.mkdtemp(prefix="vasae-stream-"))
        self.cache = numbered_cache(str(self.folder / "cache"), rows, chunk_rows, context=6)
        self.rows, self.mask = rows, Mask(*mask)
        self.shuffle = Shuffle(readers * per_reader, seed, readers, shuffle_chunks)
        self.step, self.streams = 0, self.open(1)
        self.order = self.streams[0].order
        norms = self.cache.norms(LAYER, "train").read(0, rows)
        counted = np.arange(rows) % 6 >= mask[0]
        limit = mask[1] * float(np.median(norms[counted])) if mask[1] else np.inf
        self.kept = counted & (norms <= limit)
        self.visits = np.zeros(rows, int)
        self.walked = 0  # batches from 0 on that are counted in visits

    def open(self, hosts):
        return [
            Stream(
                self.cache, [LAYER], "train", self.mask, self.shuffle,
                process_index=index, process_count=hosts,
            )
            for index in range(hosts)
        ]  # fmt: skip

    @rule(hosts=st.sampled_from([1, 2, 3, 4, 6]), step=st.none() | st.integers(0, 60))
    def restart(self, hosts, step):
        """Other hosts, and another step where one is given."""
        assume(self.shuffle.readers % hosts == 0)
        self.streams = self.open(hosts)
        self.step = self.step if step is None else step

    @rule(count=st.integers(1, 12))
    def read(self, count):
        """The next batches, which are those of the model whatever came before."""
        for _ in range(count):
            parts = [stream.batches(self.step)[0] for stream in self.streams]
            x = np.concatenate([part.x for part in parts])
            rows = x[:, 0].astype(int)
            np.testing.assert_array_equal(x[:, 1], rows + np.float32(0.5))
            np.testing.assert_array_equal(rows, self.expected(self.step))
            keep = np.concatenate([part.keep for part in parts])
            np.testing.assert_array_equal(keep, self.kept[rows])
            docs = np.concatenate([part.docs for part in parts])
            np.testing.assert_array_equal(docs, rows // 5)
            self.count(rows)
            self.step += 1

    def expected(self, step):
        """Rows of global batch ``step``, by the plain sequences of its readers."""
        each = self.shuffle.batch // self.shuffle.readers
        start, stop = step * each, (step + 1) * each
        found = []
        for reader in range(self.shuffle.readers):
            epochs = -(-stop // self.order.epoch_rows)
            found += reader_sequence(self.order, reader, epochs)[start:stop]
        return found

    def count(self, rows):
        if self.step == self.walked:
            self.visits += np.bincount(rows, minlength=self.rows)
            self.walked += 1

    @invariant()
    def all_rows_count_alike(self):
        """The visits of any two rows differ by at most 2, at whatever batch."""
        if hasattr(self, "visits"):
            assert np.ptp(self.visits) <= 2

    def teardown(self):
        shutil.rmtree(getattr(self, "folder", ""), ignore_errors=True)


few = settings(
    max_examples=12, stateful_step_count=12, derandomize=True, database=None, deadline=None
)


@pytest.mark.fault
def test_the_stream_is_that_of_its_model():
    run_state_machine_as_test(Model, settings=few)
