"""The order of the rows against a plain reimplementation, and as numbers that never change."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vasae_jax.stream.order import VERSION, Order, check, permutation, unchanged_since
from vasae_jax.utils.errors import UserError

ORDERS = [
    Order(rows=1000, chunk_rows=16, readers=4, shuffle_chunks=3, seed=0),
    Order(rows=1000, chunk_rows=16, readers=7, shuffle_chunks=1, seed=5),
    Order(rows=97, chunk_rows=16, readers=7, shuffle_chunks=100, seed=2**64 - 1),
    Order(rows=40, chunk_rows=16, readers=1, shuffle_chunks=2, seed=1),
    Order(rows=5, chunk_rows=16, readers=1, shuffle_chunks=4, seed=1),
]


def sort_by_draws(seed, reader, epoch, part, count):
    key, counter = seed + (reader << 64), (part << 128) + (epoch << 192)
    draws = np.random.Philox(key=key, counter=counter).random_raw(count)
    return [int(i) for i in sorted(range(count), key=lambda index: int(draws[index]))]


def ring_of(order):
    """(chunk, row) of every row of the split, as the chunks are dealt to the readers."""
    chunks = range(-(-order.rows // order.chunk_rows))
    dealt = [chunk for r in range(order.readers) for chunk in chunks if chunk % order.readers == r]
    return [
        (chunk, row)
        for chunk in dealt
        for row in range(chunk * order.chunk_rows, (chunk + 1) * order.chunk_rows)
        if row < order.rows
    ]


def reader_sequence(order, reader, epochs):
    """Rows of a reader in order, epoch by epoch, the slow way."""
    ring, each = ring_of(order), order.rows // order.readers
    found = []
    for epoch in range(epochs):
        start = (epoch * order.readers + reader) * each
        taken = [ring[place % order.rows] for place in range(start, start + each)]
        own = [list(rows) for _, rows in itertools.groupby(taken, key=lambda pair: pair[0])]
        own = [own[i] for i in sort_by_draws(order.seed, reader, epoch, 0, len(own))]
        for group, first in enumerate(range(0, len(own), order.shuffle_chunks)):
            rows = [row for part in own[first : first + order.shuffle_chunks] for _, row in part]
            shuffled = sort_by_draws(order.seed, reader, epoch, group + 1, len(rows))
            found += [rows[i] for i in shuffled]
    return found


def whole_chunk_sequence(order, reader, epochs):
    """As version 1 of the order had it: a reader has every R-th chunk, whole."""
    found = []
    for epoch in range(epochs):
        own = np.arange(reader, -(-order.rows // order.chunk_rows), order.readers)
        own = own[sort_by_draws(order.seed, reader, epoch, 0, len(own))]
        for group, start in enumerate(range(0, len(own), order.shuffle_chunks)):
            rows = []
            for chunk in own[start : start + order.shuffle_chunks]:
                first = int(chunk) * order.chunk_rows
                rows += range(first, min(first + order.chunk_rows, order.rows))
            shuffled = sort_by_draws(order.seed, reader, epoch, group + 1, len(rows))
            found += [rows[i] for i in shuffled]
    return found


def rows_of(order, reader, start, stop):
    """Rows of a reader by the fast path's own pieces."""
    found = []
    for segment in order.segments(reader, start, stop):
        ranges = order.ranges(reader, segment.epoch, segment.group)
        rows = np.concatenate([np.arange(*part) for part in ranges])
        places = order.shuffle(reader, segment.epoch, segment.group)
        found += rows[places[segment.start : segment.stop]].tolist()
    return found


@pytest.mark.parametrize("order", ORDERS)
def test_equals_the_slow_twin(order):
    for reader in range(order.readers):
        expected = reader_sequence(order, reader, 3)
        assert rows_of(order, reader, 0, len(expected)) == expected
        assert len(expected) == 3 * order.epoch_rows
        for start in range(0, len(expected) - 11, 11):
            assert rows_of(order, reader, start, start + 11) == expected[start : start + 11]


@pytest.mark.fault
@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(
    chunks=st.integers(1, 20),
    chunk_rows=st.integers(1, 12),
    last=st.integers(1, 12),
    readers=st.integers(1, 20),
    shuffle_chunks=st.integers(1, 4),
    each=st.integers(1, 9),
)
def test_rows_count_alike(chunks, chunk_rows, last, readers, shuffle_chunks, each):
    """At any step, whatever the chunks and readers; hosts divide the readers among them."""
    assume(last <= chunk_rows and readers <= chunks)
    rows = (chunks - 1) * chunk_rows + last
    order = Order(rows, chunk_rows, readers, shuffle_chunks, seed=1)
    visits, passed = np.zeros(rows, int), 0
    while passed < 4 * order.epoch_rows:
        for reader in range(readers):
            np.add.at(visits, rows_of(order, reader, passed, passed + each), 1)
        passed += each
        assert np.ptp(visits) <= 2
    visits = np.zeros(rows, int)
    for epoch in range(1, 6):
        for reader in range(readers):
            part = rows_of(order, reader, (epoch - 1) * order.epoch_rows, epoch * order.epoch_rows)
            np.add.at(visits, part, 1)
        assert np.ptp(visits) <= 1
        assert visits.sum() == epoch * readers * order.epoch_rows


@pytest.mark.parametrize(
    ("rows", "readers"), [(64, 4), (64, 1), (128, 2), (96, 6), (70, 1), (5, 1)]
)
def test_where_readers_have_equally_many_rows_the_order_is_that_of_version_1(rows, readers):
    order = Order(rows, 16, readers, shuffle_chunks=2, seed=4)
    assert unchanged_since(1, rows, 16, readers)
    for reader in range(readers):
        expected = whole_chunk_sequence(order, reader, 3)
        assert rows_of(order, reader, 0, len(expected)) == expected


@pytest.mark.parametrize(("rows", "readers"), [(70, 2), (80, 2), (17, 2), (144, 8)])
def test_where_they_have_not_it_is_another(rows, readers):
    order = Order(rows, 16, readers, shuffle_chunks=2, seed=4)
    assert not unchanged_since(1, rows, 16, readers)
    assert unchanged_since(VERSION, rows, 16, readers)
    old = [whole_chunk_sequence(order, reader, 3)[: order.epoch_rows] for reader in range(readers)]
    new = [rows_of(order, reader, 0, order.epoch_rows) for reader in range(readers)]
    assert old != new


def test_an_order_of_a_later_version_is_another():
    assert not unchanged_since(VERSION + 1, 64, 16, 4)


def test_the_order_differs_by_seed_reader_epoch_and_group():
    shuffles = {
        tuple(permutation(seed, reader, epoch, part=part, count=50).tolist())
        for seed in (0, 1, 2**64 - 2, 2**64 - 1)
        for reader in (0, 1)
        for epoch in (0, 1)
        for part in (0, 1)
    }
    assert len(shuffles) == 32


def test_the_order_never_changes():
    assert permutation(7, 2, 1, part=3, count=10).tolist() == [4, 2, 5, 3, 1, 6, 8, 9, 7, 0]
    even = Order(rows=24, chunk_rows=4, readers=2, shuffle_chunks=2, seed=3)
    assert rows_of(even, 0, 0, 16) == [16, 9, 8, 17, 10, 11, 19, 18, 1, 2, 3, 0, 9, 11, 8, 10]
    uneven = Order(rows=20, chunk_rows=4, readers=2, shuffle_chunks=2, seed=3)
    assert rows_of(uneven, 0, 0, 16) == [16, 9, 8, 17, 10, 11, 1, 2, 3, 0, 9, 11, 8, 10, 16, 17]


@pytest.mark.parametrize(
    ("changes", "batch", "processes", "said"),
    [
        ({}, 30, 1, "batch is 30; expected a multiple of readers"),
        ({}, 40, 3, "readers are 4; expected a multiple of the number of processes"),
        ({}, 0, 1, "batch is 0"),
        ({"readers": 0}, 40, 1, "readers is 0"),
        ({"shuffle_chunks": 0}, 40, 1, "shuffle_chunks is 0"),
        ({"seed": -1}, 40, 1, "seed is -1"),
        ({"rows": 100, "readers": 8}, 40, 1, "only 7 chunks of 16; expected readers=5"),
        ({"rows": 100, "readers": 8}, 40, 2, "only 7 chunks of 16; expected readers=4"),
        ({"rows": 10, "readers": 8}, 40, 2, "only 1 chunks of 16; expected at least 2 chunks"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(changes, batch, processes, said):
    values = {
        "rows": 1000,
        "chunk_rows": 16,
        "readers": 4,
        "shuffle_chunks": 3,
        "seed": 0,
    } | changes
    with pytest.raises(UserError, match=said):
        check(Order(**values), batch, processes)
