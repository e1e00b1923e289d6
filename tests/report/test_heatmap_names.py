"""The name in a cell of a heatmap: the tested one that fits the token, else the first of them."""

import numpy as np
import pytest
from dictionary_fixtures import F, M, dictionary

from vasae_jax.dictionary.claims import NO_NAME
from vasae_jax.report.heatmap import cell_names

OTHER = 10**6
"""A token that is no name."""


@pytest.mark.parametrize("feature", range(F))
def test_a_cell_has_the_tested_name_that_fits_or_the_first(feature):
    d = dictionary()
    known, before = cell_names(d), bool(d.layer_relation[feature])
    ids, verdicts = d.layer_token_ids[feature], d.layer_verdict[feature]
    tested = ids[verdicts != 0].tolist()
    first = tested[0] if tested else NO_NAME
    for token in ids.tolist():
        fits = token if token in tested else first
        row = (OTHER, token) if before else (token, OTHER)
        assert known.fitting(feature, *row) == fits
        assert known.fitting(feature, *row[::-1]) == first  # there it has the other relation
    assert known.fitting(feature, OTHER, NO_NAME) == first


def test_features_with_and_without_tested_names_are_among_them():
    tested = (dictionary().layer_verdict != 0).sum(axis=1)
    assert {0, M} <= set(np.unique(tested).tolist())
