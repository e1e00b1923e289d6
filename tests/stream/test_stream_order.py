"""The order of the rows against a plain reimplementation, and as numbers that never change."""

import numpy as np
import pytest

from vasae_jax.stream.order import Order, check, permutation
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


def reader_sequence(order, reader, epochs):
    """Rows of a reader in order, epoch by epoch, the slow way."""
    found = []
    for epoch in range(epochs):
        own = [
            chunk
            for chunk in range(-(-order.rows // order.chunk_rows))
            if chunk % order.readers == reader
        ]
        own = [own[i] for i in sort_by_draws(order.seed, reader, epoch, 0, len(own))]
        for group, start in enumerate(range(0, len(own), order.shuffle_chunks)):
            rows = []
            for chunk in own[start : start + order.shuffle_chunks]:
                first = chunk * order.chunk_rows
                rows += range(first, min(first + order.chunk_rows, order.rows))
            shuffled = sort_by_draws(order.seed, reader, epoch, group + 1, len(rows))
            found += [rows[i] for i in shuffled]
    return found


def rows_of(order, reader, start, stop):
    """Rows of a reader by the fast path's own pieces."""
    found = []
    for segment in order.segments(reader, start, stop):
        chunks = order.group_chunks(reader, segment.epoch, segment.group)
        rows = np.concatenate([np.arange(*order.chunk_range(chunk)) for chunk in chunks])
        places = order.shuffle(reader, segment.epoch, segment.group)
        found += rows[places[segment.start : segment.stop]].tolist()
    return found


@pytest.mark.parametrize("order", ORDERS)
def test_equals_the_slow_twin(order):
    for reader in range(order.readers):
        expected = reader_sequence(order, reader, 3)
        assert rows_of(order, reader, 0, len(expected)) == expected
        assert len(expected) == 3 * order.reader_rows(reader)
        for start in range(0, len(expected) - 11, 11):
            assert rows_of(order, reader, start, start + 11) == expected[start : start + 11]


@pytest.mark.parametrize("order", ORDERS)
def test_an_epoch_visits_each_row_once(order):
    for epoch in range(2):
        seen = []
        for reader in range(order.readers):
            length = order.reader_rows(reader)
            seen += rows_of(order, reader, epoch * length, (epoch + 1) * length)
        assert sorted(seen) == list(range(order.rows))


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
    order = Order(rows=20, chunk_rows=4, readers=2, shuffle_chunks=2, seed=3)
    assert rows_of(order, 0, 0, 16) == [16, 9, 8, 17, 10, 11, 19, 18, 1, 2, 3, 0, 9, 11, 8, 10]


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
