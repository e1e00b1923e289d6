"""The input score: how often a feature's strongest firing in a window is at one of its tokens.

As Query Lens defines it (arXiv:2606.07617, section 5.1). Of the windows in which a feature fires,
take the WINDOWS with the largest maximum, and of each the token A_i at that maximum; a token may
come several times. The score of a set T of tokens is the share of the A_i that are in T. Features
that fire in fewer windows have no score.

The paper draws 100 features of a layer. Here all are measured, since nothing is run for it: the
mean of a sample estimates that of all.
"""

from collections.abc import Mapping

import numpy as np

from vasae_jax.evaluation.bootstrap import DocumentSums, Figure, figures, ratio
from vasae_jax.names.firings import Firings

WINDOWS = 20
"""Windows of each feature that count: those in which it fires most strongly."""


def strongest_windows(firings: Firings, window: np.ndarray) -> Firings:
    """The strongest firing in each of a feature's WINDOWS strongest windows.

    Args:
        firings: on rows of a split.
        window: int [rows of the split], the window of each row.

    Returns:
        WINDOWS firings of each feature that fires in so many windows, none of the others. Of
        equal activations the earlier row comes first.
    """
    place = window[firings.row]
    order = np.lexsort((firings.row, -firings.activation, place, firings.feature))
    feature, place = firings.feature[order], place[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (feature[1:] != feature[:-1]) | (place[1:] != place[:-1])
    peaks = order[is_first]
    peaks = peaks[
        np.lexsort((firings.row[peaks], -firings.activation[peaks], firings.feature[peaks]))
    ]
    feature = firings.feature[peaks]
    windows = np.bincount(feature)
    rank = np.arange(len(feature)) - np.searchsorted(feature, feature)
    kept = peaks[(rank < WINDOWS) & (windows[feature] >= WINDOWS)]
    return Firings(*(array[kept] for array in firings))


def is_listed(ids: np.ndarray, feature: np.ndarray, token: np.ndarray) -> np.ndarray:
    """Whether each ``token`` [n] is in the list of its ``feature`` [n]; lists are ids [F, m]."""
    listed: np.ndarray = (ids[feature] == token[:, None]).any(axis=1) & (token >= 0)
    return listed


def input_scores(
    peaks: Firings, listed: Mapping[str, np.ndarray], documents: DocumentSums
) -> dict[str, Figure]:
    """The mean input score over features, of several lists, with intervals over documents.

    Args:
        peaks: what :func:`strongest_windows` gives.
        listed: by list, bool [n], whether the token of each of ``peaks`` is in it.
        documents: of the split.
    """
    features, column = np.unique(peaks.feature, return_inverse=True)
    place = documents.group[peaks.row] * len(features) + column
    size = len(documents) * len(features)

    def sums(counted: np.ndarray) -> np.ndarray:
        values: np.ndarray = np.bincount(place, counted, size)
        return values.reshape(len(documents), len(features))

    windows = sums(np.ones(len(place)))
    hits = {name: sums(is_hit) for name, is_hit in listed.items()}

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn = weights @ windows
        present = np.count_nonzero(drawn, axis=1)
        return {
            name: ratio(np.nansum(ratio(weights @ part, drawn), axis=1), present)
            for name, part in hits.items()
        }

    return figures(measure, len(documents))
