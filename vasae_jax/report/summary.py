"""The tables that the quickstart prints: the measures, and named features with where they fire."""

import textwrap

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.cache.vocab import printable
from vasae_jax.dictionary.card import OFTEN, aligned, best_features
from vasae_jax.dictionary.claims import BEFORE, LAYER_CLAIM
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.names.evidence import spread_features
from vasae_jax.names.firings import FiringObserver, Firings, token_shares, top_tokens
from vasae_jax.names.scores import name_scores, score_table
from vasae_jax.report.run_report import layer_names
from vasae_jax.training.run import Run

FEATURES = 12
"""Features in each of the two tables."""
NAMES = 3
"""Layer names shown of each feature."""
HEAD = ("feature", "fires", "", "name (share held)", "holds", "verdict", "most", "an example")
TOKENS_BEFORE, TOKENS_AFTER = 8, 3
"""Tokens of the same window shown on either side of a row's own."""


def summary(run: Run, dictionary: Dictionary, evaluation: Evaluation, watch: FiringObserver) -> str:
    """The evaluation, how well names hold, and two tables: the best names and typical ones."""
    firings = watch.firings()
    table = _Table(run, firings, dictionary, evaluation.split)
    typical: list[int] = spread_features(dictionary.fire_rate, FEATURES).tolist()
    parts = [
        evaluation.table(),
        score_table(name_scores(firings, *layer_names(dictionary)), watch.rows),
        f"Names that hold best, of features that fire on at least {OFTEN:.1%} of the rows",
        table.text(best_features(dictionary, FEATURES)),
        "Typical features: evenly spaced, from those that fire most to those that fire least",
        table.text(typical),
        "\n".join(textwrap.wrap(LAYER_CLAIM, 90)),
    ]
    return "\n\n".join(["", *parts])


class _Table:
    """Lines about features: names, what they hold, where features fire, an example."""

    def __init__(self, run: Run, firings: Firings, dictionary: Dictionary, split: str) -> None:
        self._firings, self._dictionary = firings, dictionary
        self._vocab = run.cache.vocab()
        self._snippets = Snippets(run.cache, split)

    def text(self, features: list[int]) -> str:
        """A table of ``features``."""
        tokens = token_shares(self._firings, features, len(self._vocab))
        lines: list[tuple[str, ...]] = [HEAD]
        for place, feature in enumerate(features):
            before = self._dictionary.layer_relation[feature] == BEFORE
            lines.append(self._line(feature, (tokens.before if before else tokens.at)[place]))
        return "\n".join(aligned(lines))

    def _line(self, feature: int, shares: np.ndarray) -> tuple[str, ...]:
        names = self._dictionary.names(feature)
        most = "  ".join(f"{self._vocab.display(t)} {s:.0%}" for t, s in top_tokens(shares, 2))
        return (
            str(feature),
            f"{names.fire_rate:.2%}",
            names.relation,
            names.layer_text(NAMES),
            f"{names.hold:.0%}",
            names.verdict,
            most,
            self._example(feature),
        )

    def _example(self, feature: int) -> str:
        """The text around the row on which the feature fires most."""
        places = np.flatnonzero(self._firings.feature == feature)
        if not len(places):
            return ""
        strongest = places[np.argmax(self._firings.activation[places])]
        return self._snippets.text(int(self._firings.row[strongest]))


class Snippets:
    """A few words of text around each row of a split."""

    def __init__(self, cache: Cache, split: str) -> None:
        """Raise UserError where the cache lacks the split, or a column is damaged."""
        rows = cache.rows(split)
        self._vocab = cache.vocab()
        self._tokens = cache.column("tokens", split).read(0, rows)
        self._positions = cache.column("positions", split).read(0, rows)

    def text(self, row: int) -> str:
        """``row``'s token in brackets, between the text before and after it."""
        start = last = row
        while start > max(row - TOKENS_BEFORE, 0) and self._continues(start - 1):
            start -= 1
        while last < min(row + TOKENS_AFTER, len(self._tokens) - 1) and self._continues(last):
            last += 1
        left, right = self._words(start, row), self._words(row + 1, last + 1)
        return f"{left}[{self._words(row, row + 1)}]{right}"

    def _continues(self, row: int) -> bool:
        """Whether the row after ``row`` is the next one of the same window."""
        return bool(self._positions[row + 1] == self._positions[row] + 1)

    def _words(self, start: int, stop: int) -> str:
        data = b"".join(self._vocab.token_bytes(t) for t in self._tokens[start:stop].tolist())
        return printable(data).replace("␣", " ") if data else ""
