"""Names are the exact top-m cosines over the whole vocabulary, ties to the lowest id."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vasae_jax.anchor import search
from vasae_jax.anchor.search import cosine_topm
from vasae_jax.dictionary.claims import bucket_names, bucket_of
from vasae_jax.names.by_embedding import nearest_tokens
from vasae_jax.sae import unit_rows
from vasae_jax.utils.errors import UserError


def twin(rows, anchors, m):
    """Every cosine in float64, sorted by (-cosine, id); also the gap that follows each rank."""

    def unit(x):
        norm = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
        return x / np.where(norm > 0, norm, 1)

    # One multiplication a coordinate, added in a fixed order: equal anchors have equal cosines.
    cosines = np.zeros((len(rows), len(anchors)))
    for a, b in zip(unit(rows).T, unit(anchors).T, strict=True):
        cosines += a[:, None] * b[None, :]
    order = np.argsort(-cosines, axis=1, kind="stable")
    ranked = np.take_along_axis(cosines, order, axis=1)
    padded = np.concatenate([ranked, np.full((len(rows), 1), -9.0)], axis=1)
    return order[:, :m], ranked[:, :m], -np.diff(padded, axis=1)[:, :m]


def check(rows, anchors, m, **options):
    """Cosines within 2e-6; ids equal in every row without a near tie (closer than 2e-6)."""
    ids, cosines = nearest_tokens(rows, anchors, m, **options)
    expected, values, gaps = twin(rows, anchors, m)
    assert ids.dtype == np.int32 and cosines.dtype == np.float32
    np.testing.assert_allclose(cosines, values, atol=2e-6, rtol=0)
    clear = np.all((gaps == 0) | (gaps > 2e-6), axis=1)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(ids[clear], expected[clear])


@pytest.mark.parametrize(
    ("n_rows", "n_anchors", "d", "m", "block"),
    [
        (1, 1, 3, 1, 4096),
        (5, 7, 4, 7, 4096),
        (40, 31, 8, 3, 16),
        (33, 1000, 16, 1, 4096),
        (33, 1000, 16, 5, 96),
        (33, 1000, 16, 40, 64),
        (7, 129, 16, 129, 50),
        (300, 4099, 24, 6, 1024),
    ],
)
def test_equals_the_float64_twin(n_rows, n_anchors, d, m, block):
    rng = np.random.default_rng(n_anchors + m)
    rows = rng.normal(size=(n_rows, d)).astype(np.float32)
    anchors = rng.normal(size=(n_anchors, d)).astype(np.float32)
    check(rows, anchors, m, block=block)


def test_row_blocks_meet_without_a_seam(monkeypatch):
    monkeypatch.setattr(search, "ROW_BLOCK", 16)
    rng = np.random.default_rng(5)
    rows = unit_rows(jnp.asarray(rng.normal(size=(50, 8)), jnp.float32))
    anchors = unit_rows(jnp.asarray(rng.normal(size=(70, 8)), jnp.float32))
    _, ids = jax.jit(lambda a, b: cosine_topm(a, b, 4, 32))(rows, anchors)
    expected, _, gaps = twin(np.asarray(rows), np.asarray(anchors), 4)
    clear = np.all(gaps > 2e-6, axis=1)
    assert clear.all()
    np.testing.assert_array_equal(np.asarray(ids), expected)


@pytest.mark.parametrize("block", [128, 500, 4096])
def test_duplicated_embeddings_tie_to_the_lowest_id_across_blocks(block):
    rng = np.random.default_rng(1)
    different = rng.normal(size=(331, 32)).astype(np.float32)
    anchors = different[rng.integers(0, 331, size=2011)]
    check(rng.normal(size=(257, 32)).astype(np.float32), anchors, 20, block=block)


def test_exact_ties_of_different_directions_go_to_the_lowest_id():
    axes = np.eye(8, dtype=np.float32)
    ids, cosines = nearest_tokens(np.ones((1, 8), np.float32), axes[::-1], 8)
    np.testing.assert_array_equal(ids, [np.arange(8)])
    np.testing.assert_allclose(cosines, 1 / np.sqrt(8), rtol=1e-6)


def test_rows_and_anchors_of_norm_zero_have_cosine_zero():
    rows = np.array([[0, 0], [1, 0]], np.float32)
    anchors = np.array([[-1, 0], [0, 0], [0, 3], [2, 0]], np.float32)
    ids, cosines = nearest_tokens(rows, anchors, 4)
    np.testing.assert_array_equal(ids, [[0, 1, 2, 3], [3, 1, 2, 0]])
    np.testing.assert_array_equal(cosines, [[0, 0, 0, 0], [1, 0, 0, -1]])


def test_scale_does_not_matter_even_where_squares_leave_float32():
    rng = np.random.default_rng(2)
    rows, anchors = (rng.normal(size=(n, 16)).astype(np.float32) for n in (20, 90))
    ids, cosines = nearest_tokens(rows, anchors, 3)
    scaled_ids, scaled = nearest_tokens(rows * np.float32(1e-30), anchors * np.float32(1e30), 3)
    np.testing.assert_array_equal(ids, scaled_ids)
    np.testing.assert_allclose(cosines, scaled, atol=1e-6)


def test_never_holds_all_products():
    shape = jax.ShapeDtypeStruct((20_000, 16), jnp.float32)
    compiled = jax.jit(lambda a, b: cosine_topm(a, b, 5)).lower(shape, shape).compile()
    assert 0 < compiled.memory_analysis().temp_size_in_bytes < 0.25 * 20_000**2 * 4


def test_nearest_is_the_first_of_the_m():
    rng = np.random.default_rng(3)
    rows, anchors = (rng.normal(size=(n, 16)).astype(np.float32) for n in (20, 90))
    ids, cosines = nearest_tokens(rows, anchors, 3)
    one = nearest_tokens(rows, anchors, 1)
    np.testing.assert_array_equal(ids[:, :1], one.ids)
    np.testing.assert_allclose(cosines[:, :1], one.cosines, atol=1e-6)


def test_no_rows_give_no_names():
    ids, cosines = nearest_tokens(np.zeros((0, 4), np.float32), np.ones((3, 4), np.float32), 2)
    assert ids.shape == cosines.shape == (0, 2)


@pytest.mark.parametrize(
    ("rows", "anchors", "m", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), 1, "equal d"),
        (np.ones(3), np.ones((2, 3)), 1, "equal d"),
        (np.ones((2, 3)), np.ones((2, 3)), 3, "expected 1 to 2"),
        (np.ones((2, 3)), np.ones((2, 3)), 0, "expected 1 to 2"),
        (np.array([[1.0], [np.nan]]), np.ones((2, 1)), 1, "decoder row 1 is not finite"),
        (np.ones((2, 1)), np.array([[np.inf], [1.0]]), 1, "anchor 0 is not finite"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(rows, anchors, m, message):
    with pytest.raises(UserError, match=message):
        nearest_tokens(rows.astype(np.float32), anchors.astype(np.float32), m)


def test_bucket_borders_belong_to_the_better_bucket():
    found = bucket_of(np.array([1.0, 0.8, 0.79, 0.5, 0.49, 0.3, 0.29, -1.0]))
    names = [bucket_names()[index] for index in found]
    assert names == ["strong", "strong", "medium", "medium", "weak", "weak", "none", "none"]
