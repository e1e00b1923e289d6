"""Layer anchors equal their slow twin, however the work is cut."""

import numpy as np
import pytest
from cache_fixtures import append, make_cache, make_plan, make_rows, make_vocabulary
from layer_twin import pairs, twin

from vasae_jax.anchor import layer_rows as rows
from vasae_jax.anchor.layer_anchors import layer_anchors
from vasae_jax.anchor.layer_rows import origin_of
from vasae_jax.anchor.token_means import make_anchors, token_blocks
from vasae_jax.anchor.whitening import anchor_rows
from vasae_jax.cache import Cache, CacheWriter
from vasae_jax.utils.errors import UserError

# More tokens than can occur: some are never seen. Windows of 20 end within chunks of 16 and
# shards of 64, so a row's successor often lies in the next piece.
V, D, ROWS = 300, 16, 500


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("layer"), rows=ROWS, vocab=V, d=D)


@pytest.fixture
def small_pieces(monkeypatch):
    """Pieces of one chunk."""
    monkeypatch.setattr(rows, "PIECE_BYTES", 1)


def twins(skip, max_norm, made=None):
    made = made or make_rows(make_plan(D, V), ROWS)
    embedding = make_vocabulary(make_plan(D, V)).embedding
    return dict(
        zip(
            ("at", "before"),
            (twin(found, embedding) for found in pairs(made, 3, skip, max_norm)),
            strict=True,
        )
    )


def check(found, expected):
    """Float32 results, so a millionth or so of what they are sums of."""
    for relation, true in expected.items():
        means = getattr(found, relation)
        np.testing.assert_array_equal(means.count, true.count)
        for name, want in (("rows", true.rows), ("mean", true.mean), ("within", true.within)):
            got = getattr(means, name)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1, abs(want).max()))
        assert means.explained == pytest.approx(true.explained, abs=1e-5)


@pytest.mark.parametrize(("skip", "max_norm"), [(1, 3.0), (0, 0.0), (0, 3.0), (4, 0.0)])
def test_the_anchors_are_their_twin(cache, small_pieces, skip, max_norm):
    expected = twins(skip, max_norm)
    found = make_anchors(cache, origin_of(cache, 3, skip, max_norm))
    check(found, expected)
    assert found.rows == expected["at"].count.sum() > found.before_rows > 0
    assert (expected["at"].count == 0).any(), "some token must be unseen"
    assert found.origin.cache == cache.digest


@pytest.mark.parametrize("piece_bytes", [1, 5_000, 64 * 2**20])
def test_pieces_of_any_size_give_the_same(cache, monkeypatch, piece_bytes):
    monkeypatch.setattr(rows, "PIECE_BYTES", piece_bytes)
    check(make_anchors(cache, origin_of(cache, 3, 1, 3.0)), twins(1, 3.0))


@pytest.mark.parametrize("tokens", [7, 70, 299])
def test_blocks_of_tokens_equal_one_block(cache, tokens):
    origin = origin_of(cache, 3, 1, 3.0)
    whole, cut = make_anchors(cache, origin), make_anchors(cache, origin, limit=16 * D * tokens)
    for name, array in whole.arrays().items():
        np.testing.assert_allclose(cut.arrays()[name], array, rtol=0, atol=2e-5)
    check(cut, twins(1, 3.0))


def test_blocks_cover_the_vocabulary():
    assert token_blocks(V, D, 16 * D * 70) == [
        (0, 70), (70, 140), (140, 210), (210, 280), (280, 300)
    ]  # fmt: skip


def test_heldout_rows_are_not_used(tmp_path):
    one, other = (
        make_cache(tmp_path, rows=ROWS, d=D, vocab=V, heldout=h, name=str(h)) for h in (40, 200)
    )
    one, other = (make_anchors(each, origin_of(each, 3, 1, 3.0)) for each in (one, other))
    for name, array in one.arrays().items():
        np.testing.assert_array_equal(array, other.arrays()[name])


def test_a_window_that_ends_early_ends_the_relation(tmp_path):
    """Windows of one row: nothing follows anything."""
    plan = make_plan(D, 40)
    made = make_rows(plan, 100)
    made.positions[:] = 3
    with CacheWriter(str(tmp_path / "cache"), plan, make_vocabulary(plan)) as writer:
        append(writer, "train", made)
        writer.finish()
    found = layer_anchors(Cache.open(str(tmp_path / "cache")), 3, 1, 0.0)
    assert found.rows == 100 and found.before_rows == 0
    for name in ("rows", "mean", "within", "count"):
        assert not getattr(found.before, name).any()
    assert found.before.explained == 0 and np.isfinite(found.at.rows).all()


def test_rows_far_from_zero_lose_no_digits(tmp_path):
    """A shared direction a thousand times as long as what differs between rows."""
    plan = make_plan(D, V, dtype="float32")
    made = make_rows(plan, ROWS)
    made.acts[3][made.positions == 0] /= 30
    made.acts[3][...] += 1000
    with CacheWriter(str(tmp_path / "cache"), plan, make_vocabulary(plan)) as writer:
        append(writer, "train", made)
        writer.finish()
    cache = Cache.open(str(tmp_path / "cache"))
    found, expected = make_anchors(cache, origin_of(cache, 3, 0, 0.0)), twins(0, 0.0, made)
    for name, true in expected.items():
        np.testing.assert_allclose(getattr(found, name).rows, true.rows, atol=1e-4)
        np.testing.assert_allclose(getattr(found, name).within, true.within, atol=1e-4)


def test_unit_rows_of_each_kind(cache):
    found = make_anchors(cache, origin_of(cache, 3, 1, 3.0))
    found.at.rows[7] = 0
    at, before, both = (anchor_rows(found, kind) for kind in ("at", "before", "both"))
    np.testing.assert_array_equal(both, np.concatenate([at, before]))
    assert both.shape == (2 * V, D) and both.dtype == np.float32
    norms = np.linalg.norm(at, axis=1)
    assert norms[7] == 0 and not at[7].any()
    np.testing.assert_allclose(np.delete(norms, 7), 1, atol=1e-6)
    np.testing.assert_allclose(
        before,
        found.before.rows / np.linalg.norm(found.before.rows, axis=1, keepdims=True),
        atol=1e-6,
    )
    with pytest.raises(UserError, match="next"):
        anchor_rows(found, "next")


def test_what_cannot_be_is_refused(cache):
    with pytest.raises(UserError, match=r"no layers\.2\.resid_post; expected one of"):
        layer_anchors(cache, 2, 1, 3.0)
    with pytest.raises(UserError, match="not negative"):
        layer_anchors(cache, 3, -1, 3.0)
    with pytest.raises(UserError, match="smaller skip_positions"):
        layer_anchors(cache, 3, 20, 3.0)
