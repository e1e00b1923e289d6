"""Several layers read in one pass: each layer's own batches, every chunk asked for once."""

from collections import Counter

import numpy as np
import pytest
from cache_fixtures import make_cache

from vasae_jax.cache import RowArray
from vasae_jax.config import Mask
from vasae_jax.stream.order import Shuffle
from vasae_jax.stream.stream import Stream
from vasae_jax.utils.errors import UserError

LAYERS = (3, 1, 5)
MASK, SHUFFLE = Mask(1, 1.2), Shuffle(batch=60, seed=0, readers=4, shuffle_chunks=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("layers"), rows=1000, layers=(1, 3, 5))


def test_each_layer_has_the_batches_of_its_own_stream(cache):
    together = Stream(cache, LAYERS, "train", MASK, SHUFFLE)
    alone = [Stream(cache, [layer], "train", MASK, SHUFFLE) for layer in LAYERS]
    with together.prefetch(3) as batches:
        for _ in range(20):
            step, found = next(batches)
            for own, stream in zip(found, alone, strict=True):
                expected = stream.batches(step)[0]
                for name in ("x", "keep", "docs"):
                    np.testing.assert_array_equal(getattr(own, name), getattr(expected, name))
    assert not np.array_equal(found[0].keep, found[1].keep)


def test_every_chunk_of_every_column_is_asked_for_once_an_epoch(cache, monkeypatch):
    asked, real = Counter(), RowArray.read_into

    def counting(array, start, stop, out):
        asked.update((array.name, row) for row in range(start, stop))
        return real(array, start, stop, out)

    stream = Stream(cache, LAYERS, "train", MASK, SHUFFLE)  # which reads norms for their median
    monkeypatch.setattr(RowArray, "read_into", counting)
    for step in range(1000 // 60):
        stream.batches(step)
    names = {name for name, _ in asked}
    assert len(names) == 2 * len(LAYERS) + 2  # rows and norms of each, documents, positions
    first_epoch = [count for (name, row), count in asked.items()]
    assert max(first_epoch) <= 2 and sum(first_epoch) < 1.5 * 1000 * len(names)
    alone = Stream(cache, [3], "train", MASK, SHUFFLE)
    for step in range(1000 // 60):
        alone.batches(step)[0]
    acts, small = 1000 * 16 * 2, 1000 * 4
    each = stream.stats().bytes / (3 * acts + 5 * small)
    assert each == pytest.approx(alone.stats().bytes / (acts + 3 * small))


def test_a_layer_that_is_not_there_is_refused(cache):
    with pytest.raises(UserError, match=r"has no layers\.2"):
        Stream(cache, (3, 2), "train", MASK, SHUFFLE)
