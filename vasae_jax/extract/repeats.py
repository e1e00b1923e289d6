"""Held-out windows that repeat training: found in the tokens, and left out before any is run."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from vasae_jax.cache.overlap import RUN, Text, repeated
from vasae_jax.extract.windows import Windows
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.streams import note

STEP = 2**13
"""Windows of training that are compared at once."""


def without_repeats(windows: Windows) -> Windows:
    """The windows without held-out ones that have a token of a run that training has too.

    A run is RUN tokens of one document in a row, across its windows. How much is left out is
    said on stderr.

    Raises:
        UserError: no held-out window would remain.
    """
    heldout = np.flatnonzero(windows.heldout)
    text = _text(windows, heldout)
    train = np.flatnonzero(~windows.heldout)
    found = repeated(text, lambda: _pieces(windows, train))
    lengths = windows.lengths[heldout] - windows.bos
    window = np.repeat(np.arange(len(heldout)), lengths)
    left_out = heldout[np.bincount(window[found], minlength=len(heldout)) > 0]
    if not len(left_out):
        return windows
    rows = int(windows.lengths[left_out].sum())
    share = rows / windows.count("heldout")[0]
    what = f"{rows:,} held-out rows ({share:.1%}), in windows with {RUN} tokens that training has"
    if len(left_out) == len(heldout):
        raise UserError(
            f"the text repeats itself: all held-out rows would be left out ({what}); expected "
            "documents that differ"
        )
    note(f"left out: {what}")
    return _chosen(windows, np.setdiff1d(np.arange(len(windows.docs)), left_out))


def _pieces(windows: Windows, chosen: np.ndarray) -> Iterator[Text]:
    for first in range(0, len(chosen), STEP):
        yield _text(windows, chosen[first : first + STEP])


def _text(windows: Windows, chosen: np.ndarray) -> Text:
    """The tokens of the chosen windows without their BOS."""
    lengths = windows.lengths[chosen] - windows.bos
    return Text(
        windows.tokens[_rows(windows.starts[chosen] + windows.bos, lengths)],
        np.repeat(windows.docs[chosen], lengths),
    )


def _chosen(windows: Windows, chosen: np.ndarray) -> Windows:
    lengths = windows.lengths[chosen]
    return replace(
        windows,
        tokens=windows.tokens[_rows(windows.starts[chosen], lengths)],
        starts=np.concatenate([[0], np.cumsum(lengths)]),
        docs=windows.docs[chosen],
        heldout=windows.heldout[chosen],
    )


def _rows(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The rows of windows that begin at ``starts``, one window after another."""
    ends = np.cumsum(lengths)
    return np.asarray(np.arange(lengths.sum()) + np.repeat(starts - ends + lengths, lengths))
