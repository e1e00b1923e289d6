"""The tables that the quickstart prints: the measures, and named features with where they fire."""

import textwrap

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.cache.vocab import printable
from vasae_jax.dictionary.card import OFTEN, aligned, best_features, cautions, first_cells
from vasae_jax.dictionary.claims import LAYER_CLAIM
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.names.detection import detection, detection_table
from vasae_jax.names.evidence import spread_features
from vasae_jax.names.firings import FiringObserver, Firings, token_shares, top_tokens
from vasae_jax.names.scores import name_scores, score_table
from vasae_jax.report.run_report import layer_names
from vasae_jax.training.run import Run

FEATURES = 12
"""Features in each of the two tables."""
NAMES = 3
"""Layer names shown of each feature."""
HEAD = (
    "feature",
    "fires",
    "",
    "first name",
    "holds",
    "precision",
    "verdict",
    "others (share held)",
    "most",
    "an example",
)
TOKENS_BEFORE, TOKENS_AFTER = 8, 3
"""Tokens of the same window shown on either side of a row's own."""


def summary(
    run: Run, dictionary: Dictionary, evaluation: Evaluation, observer: FiringObserver
) -> str:
    """The evaluation, how well names hold, and two tables: the best names and typical ones."""
    firings, snippets = observer.firings(), Snippets(run.cache, evaluation.split)
    names, evidence, norms = layer_names(dictionary)
    typical: list[int] = spread_features(dictionary.fire_rate, FEATURES).tolist()
    parts = [
        evaluation.table(),
        score_table(name_scores(firings, names, evidence, norms), observer.rows),
        detection_table(detection(names, evidence, observer.rows)),
        f"Names that hold best, of features that fire on at least {OFTEN:.1%} of the rows",
        _table(best_features(dictionary, FEATURES), dictionary, firings, snippets),
        "Typical features: evenly spaced, from those that fire most to those that fire least",
        _table(typical, dictionary, firings, snippets),
        evaluation.alignment_table(),
        *(textwrap.fill(text, 90) for text in [*cautions(dictionary), LAYER_CLAIM]),
    ]
    return "\n\n".join(["", *parts])


def _table(
    features: list[int], dictionary: Dictionary, firings: Firings, snippets: "Snippets"
) -> str:
    """A line for each feature: its names, what they hold, where it fires most, an example."""
    vocab = snippets.vocab
    tokens = token_shares(firings, features, len(vocab))
    lines: list[tuple[str, ...]] = [HEAD]
    for place, feature in enumerate(features):
        names = dictionary.names(feature)
        most = top_tokens(tokens[int(dictionary.layer_relation[feature])][place], 2)
        fires = np.flatnonzero(firings.feature == feature)
        strongest = firings.row[fires[np.argmax(firings.activation[fires])]] if len(fires) else None
        lines.append(
            (
                str(feature),
                f"{names.fire_rate:.2%}",
                names.relation,
                *first_cells(names),
                names.layer_text(NAMES, start=1),
                "  ".join(f"{vocab.display(token)} {share:.0%}" for token, share in most),
                "" if strongest is None else snippets.text(int(strongest)),
            )
        )
    return "\n".join(aligned(lines))


class Snippets:
    """A few words of text around each row of a split."""

    def __init__(self, cache: Cache, split: str) -> None:
        """Raise UserError where the cache lacks the split, or a column is damaged."""
        rows = cache.rows(split)
        self.vocab = cache.vocab()
        self._tokens = cache.column("tokens", split).read(0, rows)
        self._positions = cache.column("positions", split).read(0, rows)

    def text(self, row: int) -> str:
        """``row``'s token in brackets, between the text before and after it."""
        stop = min(row + TOKENS_AFTER + 1, len(self._tokens))
        rows = np.arange(max(row - TOKENS_BEFORE, 0), stop)
        # A row of the same window has a position that differs by as much as its place does; one
        # of a negative position stands alone.
        there, here = self._positions[rows], self._positions[row]
        rows = rows[(there - here == rows - row) & (there >= 0) & (here >= 0) | (rows == row)]
        left, token, right = map(self._words, np.split(rows, np.searchsorted(rows, [row, row + 1])))
        return f"{left}[{token}]{right}"

    def _words(self, rows: np.ndarray) -> str:
        data = b"".join(self.vocab.token_bytes(t) for t in self._tokens[rows].tolist())
        return printable(data).replace("␣", " ") if data else ""
