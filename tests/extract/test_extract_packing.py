"""Windows in slots and batches: every row once, in reach, hardly a place empty."""

import numpy as np
import pytest

from vasae_jax.cache.manifest import SPLITS
from vasae_jax.extract.passes import Batches, InOrder, Rows
from vasae_jax.extract.windows import Packing, Windows, batch_size, pack, unpacked

T = 16


def made(lengths, seed=0):
    """Windows of those lengths, of about two a document; a token's id is its row."""
    rng, lengths = np.random.default_rng(seed), np.asarray(lengths)
    docs = np.cumsum(rng.integers(0, 2, len(lengths)))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    held = rng.random(docs[-1] + 1)[docs] < 0.3
    tokens = np.arange(starts[-1], dtype=np.int32)
    return Windows(tokens, starts, docs.astype(np.int32), held, T, False, "")


def lengths_of(count, seed=0, full=0.5):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(count) < full, T, rng.integers(2, T + 1, count))


def slow_slots(lengths):
    """How many slots best fit by falling length takes, by looking through all of them."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fits = [i for i, room in enumerate(rooms) if room >= length]
        if not fits:
            fits = [len(rooms)]
            rooms.append(T)
        rooms[min(fits, key=rooms.__getitem__)] -= length
    return len(rooms)


@pytest.mark.parametrize("block", [3, 20])
def test_packing_is_best_fit_in_each_stretch_of_text(block):
    lengths = lengths_of(300)
    found = pack(lengths, T, block)
    assert np.bincount(found.slot, lengths).max() <= T
    stretch = (np.cumsum(lengths) - 1) // (block * T)
    assert found.slots == sum(slow_slots(lengths[stretch == each]) for each in set(stretch))
    opened = [np.flatnonzero(found.slot == slot)[0] for slot in range(found.slots)]
    assert opened == sorted(opened), "slots come in the order of their first windows"


def test_windows_of_a_slot_do_not_overlap():
    lengths = lengths_of(200, full=0.1)
    found = pack(lengths, T)
    taken = np.zeros((found.slots, T), int)
    for slot, place, length in zip(found.slot, found.place, lengths, strict=True):
        taken[slot, place : place + length] += 1
    assert taken.max() == 1
    assert taken.sum() == lengths.sum()


@pytest.mark.parametrize(("full", "longest"), [(0.95, 128), (0.9, 128), (0.0, 60)])
def test_hardly_a_place_stays_empty(full, longest):
    """Long documents, shorter ones, and such as fill no half of a window."""
    rng = np.random.default_rng(1)
    lengths = np.where(rng.random(4000) < full, 128, rng.integers(2, longest + 1, 4000))
    found = pack(lengths, 128)
    size = batch_size(found.slots, 32)
    places = -(-found.slots // size) * size * 128
    assert lengths.sum() > 0.99 * places


@pytest.mark.parametrize(
    ("slots", "most", "multiple", "expected"),
    [
        (881, 32, 1, 26),  # 34 batches, 3 slots empty; 32 would leave 15 empty
        (6400, 32, 1, 32),
        (100_001, 32, 1, 32),  # 31 empty slots of so many do not matter
        (3, 32, 1, 3),
        (3, 32, 4, 4),
        (100, 32, 8, 24),  # 20 empty; 32 would leave 28
        (7, 1, 1, 1),
        (9, 3, 4, 3),
    ],
)
def test_batches_are_evenly_full(slots, most, multiple, expected):
    assert batch_size(slots, most, multiple) == expected


def read(batches, split):
    """Token, position and document by row number, batch by batch."""
    found = {}
    for index in range(len(batches)):
        batch = batches.batch(index)
        at = batch.places[split]
        assert (np.diff(batch.numbers[split]) > 0).all()
        columns = (a.reshape(-1)[at] for a in (batch.tokens, batch.positions, batch.docs))
        found |= dict(zip(batch.numbers[split], zip(*columns, strict=True), strict=True))
        done = batches.complete(split)[index + 1]
        assert set(range(done)) <= set(found), "what is said to be complete is there"
    assert done == len(found) == batches.windows.count(split)[0]
    return [found[number] for number in range(len(found))]


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("packed", [True, False])
def test_every_row_is_in_one_batch(size, packed):
    windows = made(lengths_of(90))
    packing = pack(windows.lengths, T, 9) if packed else unpacked(len(windows.docs))
    for split in SPLITS:
        rows = [
            (token, token - start, doc)
            for start, stop, doc, mine in zip(
                windows.starts, windows.starts[1:], windows.docs, windows.of_split(split),
                strict=False,
            )
            if mine
            for token in range(start, stop)
        ]  # fmt: skip
        assert read(Batches(windows, packing, size), split) == rows


def test_empty_places_are_zero():
    batches = Batches(made([3, 16, 5]), Packing(np.array([0, 1, 0]), np.array([0, 0, 3]), 2), 3)
    batch = batches.batch(0)
    assert batch.positions[0].tolist() == [0, 1, 2, 0, 1, 2, 3, 4] + [0] * 8
    assert batch.tokens[0].tolist() == [0, 1, 2, 19, 20, 21, 22, 23] + [0] * 8
    assert not batch.tokens[2].any() and not batch.positions[2].any()


def test_the_first_batch_with_a_row_that_is_wanted():
    windows = made(lengths_of(90))
    batches = Batches(windows, pack(windows.lengths, T), 3)
    for split in SPLITS:
        total = windows.count(split)[0]
        for start, end in ((0, total), (total // 2, total), (total - 1, total), (5, 6)):
            numbers = [batches.batch(i).numbers[split] for i in range(len(batches))]
            holds = [((each >= start) & (each < end)).any() for each in numbers]
            assert batches.first(split, start, end) == holds.index(True)
        assert batches.first(split, total, total) == len(batches)


class Writer:
    """Takes what it is given, as a writer with ``done`` rows of its own."""

    def __init__(self, done):
        self.done, self.rows = done, []

    def rows_done(self, split):
        return self.done

    def append(self, split, tokens, positions, docs, acts, *, start):
        assert start == self.done + len(self.rows)
        assert (acts[4][:, 0] == tokens).all()
        self.rows += tokens.tolist()


def test_rows_wait_for_their_turn():
    """Also where a restart has no need of the first, and of some it never sees."""
    writer = Writer(3)
    order = InOrder(writer, "train", (4,))
    for numbers, complete in (([0, 4, 9], 1), ([3, 7], 5), ([5, 6, 8], 10), ([10], 11)):
        at = np.array(numbers)
        columns = {"tokens": at, "positions": at, "docs": at}
        order.add(Rows(at, columns, np.repeat(at[None, :, None], 2, -1)), complete)
    assert writer.rows == [3, 4, 5, 6, 7, 8, 9, 10]
