"""Every measure against tiny cases worked by hand."""

import json

import numpy as np
import pytest

from vasae_jax.evaluation.metrics import NearestAnchors, Sums, alignment, compute_metrics, density
from vasae_jax.utils.errors import UserError


def by_hand():
    """Four rows in 2-D, three features of norms 1, 2 and 3, k = 2.

    x = (0,0) (2,0) (0,2) (2,2): mean (1,1), sum |x - mean|^2 = 4 * 2 = 8.
    Squared errors 1, 0, 0, 1: sum 2. Feature 0 fires on rows 0 and 1 with 1 and 3, feature 2
    on row 1 with 2; feature 1 is dead.
    """
    sums = Sums(2, 3)
    sums.add_rows(2, np.array([1.0, 0.0]), 2.0, 1.0)
    sums.add_rows(2, np.array([1.0, 2.0]), 2.0, 1.0)
    sums.add_active(np.array([[1, 0], [3, 2]], np.float32), np.array([[0, 1], [0, 2]], np.int32))
    sums.add_active(np.zeros((2, 2), np.float32), np.array([[0, 1], [2, 1]], np.int32))
    return sums


NORMS = np.array([1.0, 2.0, 3.0])
NEAR = NearestAnchors("embeddings", np.array([7, 7, 5]), np.array([0.9, 0.95, 0.4], np.float32), 10)


def test_figures_worked_by_hand():
    found = compute_metrics(by_hand(), NORMS, (NEAR,))
    assert found.rows == 4
    assert found.fvu == pytest.approx(2 / 8)
    assert found.variance_explained == pytest.approx(6 / 8)
    assert found.l0 == pytest.approx(3 / 4)
    assert (found.dead, found.dead_fraction) == (1, pytest.approx(1 / 3))
    np.testing.assert_allclose(found.fire_rate, [2 / 4, 0, 1 / 4])


def test_alignment_worked_by_hand():
    """Firing: 0 (0.9, aligned) and 2 (0.4). Mass: 0 carries 4 * 1, 2 carries 2 * 3."""
    found = compute_metrics(by_hand(), NORMS, (NEAR,)).alignment[0]
    assert found.firing_aligned == pytest.approx(1 / 2)
    assert found.mass_aligned == pytest.approx(4 / 10)
    assert found.dictionary_aligned == pytest.approx(2 / 3)
    assert found.coverage == pytest.approx(1 / 10)
    assert found.firing_cosine == pytest.approx(1.3 / 2)
    assert found.dictionary_cosine == pytest.approx(2.25 / 3)
    assert found.firing_buckets == {"strong": 1, "medium": 0, "weak": 1, "none": 0}
    assert found.dictionary_buckets == {"strong": 2, "medium": 0, "weak": 1, "none": 0}


def test_tokens_are_covered_once_and_only_by_aligned_features_that_fire():
    near = NearestAnchors("e", np.array([3, 3, 4, 5, 6]), np.array([0.8, 1, 1, 0.79, 0.9]), 8)
    fires = np.array([True, True, True, True, False])
    assert alignment(near, fires, np.ones(5)).coverage == pytest.approx(2 / 8)


def test_dead_and_perfectly_aligned_features_score_nothing_where_it_counts():
    sums = Sums(2, 3)
    sums.add_rows(2, np.array([1.0, 0.0]), 2.0, 1.0)
    near = NearestAnchors("embeddings", np.arange(3), np.ones(3), 3)
    found = compute_metrics(sums, np.ones(3), (near,)).alignment[0]
    leading = (found.firing_aligned, found.mass_aligned, found.coverage, found.firing_cosine)
    assert leading == (0, 0, 0, 0)
    assert found.dictionary_aligned == 1


def test_one_living_feature_that_is_not_aligned_is_not_helped_by_dead_ones_that_are():
    sums = by_hand()
    near = NearestAnchors("embeddings", np.arange(3), np.array([0.1, 1.0, 0.1]), 3)
    found = compute_metrics(sums, NORMS, (near,)).alignment[0]
    assert (found.firing_aligned, found.mass_aligned) == (0, 0)


def test_rows_far_from_the_origin_keep_their_digits():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 3)) + 1e8
    sums = Sums(3, 1)
    for part in np.split(x, [1, 7, 500]):
        mean = part.mean(axis=0)
        sums.add_rows(len(part), mean, float(np.sum((part - mean) ** 2)), 0.0)
    assert sums.spread == pytest.approx(float(np.sum((x - x.mean(axis=0)) ** 2)), rel=1e-7)


def test_density_counts_features_that_fire_by_the_order_of_their_rate():
    found = density(np.array([0, 1, 10, 10, 1000]), 1000)
    counts = dict(zip(found["log10_edges"], found["features"], strict=False))
    assert {edge: count for edge, count in counts.items() if count} == {-3.0: 1, -2.0: 2, -0.5: 1}


def test_rare_firing_is_counted_in_the_first_bin():
    assert density(np.array([1]), 10**8)["features"][0] == 1


def test_json_has_the_figures_and_not_the_arrays():
    value = json.loads(json.dumps(compute_metrics(by_hand(), NORMS, (NEAR, NEAR)).to_json()))
    assert "fire_rate" not in value and len(value["alignment"]) == 2


def test_what_has_no_meaning_is_refused():
    empty, equal, broken = Sums(2, 1), Sums(2, 1), Sums(2, 1)
    equal.add_rows(3, np.ones(2), 0.0, 1.0)
    broken.add_rows(3, np.ones(2), 1.0, np.nan)
    for sums, message in ((empty, "no rows"), (equal, "3 rows are equal"), (broken, "not finite")):
        with pytest.raises(UserError, match=message):
            compute_metrics(sums, np.ones(1), ())
