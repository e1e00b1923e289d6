"""What a quickstart tells at its end: the measures, and named features with where they fire."""

import textwrap

import numpy as np

from vasae_jax.dictionary import Dictionary
from vasae_jax.dictionary.table import OFTEN, aligned, best_features, layer_names_text
from vasae_jax.evaluation.contexts import Firings, Watch, contexts, largest
from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.evaluation.names.evidence import VERDICTS, Evidence
from vasae_jax.evaluation.names.holds import held, held_table
from vasae_jax.evaluation.names.relation import spread_features
from vasae_jax.naming.claim import LAYER_CLAIM
from vasae_jax.naming.layer import BEFORE, RELATIONS, LayerNames
from vasae_jax.report.snippets import Snippets
from vasae_jax.training.trained import Run

SHOWN = 12
"""Features in each of the two tables."""
NAMES = 3
"""Layer names shown of each feature."""
HEAD = ("feature", "fires", "", "name (share held)", "holds", "verdict", "most", "an example")


def summary(run: Run, dictionary: Dictionary, evaluation: Evaluation, watch: Watch) -> str:
    """The evaluation, how well names hold, and two tables: the best names and typical ones."""
    found = watch.firings()
    shown = _Table(run, found, dictionary, evaluation.split)
    parts = [
        evaluation.table(),
        held_table(held(found, *names_of(dictionary)), watch.rows),
        f"Names that hold best, of features that fire on at least {OFTEN:.1%} of the rows",
        shown.text(best_features(dictionary, SHOWN)),
        "Typical features: evenly spaced, from those that fire most to those that fire least",
        shown.text(typical_features(dictionary)),
        "\n".join(textwrap.wrap(LAYER_CLAIM, 90)),
    ]
    return "\n\n".join(["", *parts])


def typical_features(dictionary: Dictionary, count: int = SHOWN) -> list[int]:
    """``count`` features evenly spaced in the order of fire rate, of those that fire."""
    chosen: list[int] = spread_features(dictionary.fire_rate, count).tolist()
    return chosen


class _Table:
    """Lines about features: names, what they hold, where features fire, an example."""

    def __init__(self, run: Run, found: Firings, dictionary: Dictionary, split: str) -> None:
        self._found, self._dictionary = found, dictionary
        self._vocab = run.cache.vocab()
        self._snippets = Snippets(run.cache, split)

    def text(self, features: list[int]) -> str:
        """A table of ``features``."""
        where = contexts(self._found, features, len(self._vocab))
        lines: list[tuple[str, ...]] = [HEAD]
        for place, feature in enumerate(features):
            before = self._dictionary.layer_relation[feature] == BEFORE
            lines.append(self._line(feature, (where.before if before else where.at)[place]))
        return "\n".join(aligned(lines))

    def _line(self, feature: int, shares: np.ndarray) -> tuple[str, ...]:
        dictionary = self._dictionary
        most = "  ".join(f"{self._vocab.display(t)} {s:.0%}" for t, s in largest(shares, 2))
        return (
            str(feature),
            f"{dictionary.fire_rate[feature]:.2%}",
            RELATIONS[dictionary.layer_relation[feature]],
            layer_names_text(dictionary, feature, NAMES),
            f"{dictionary.hold[feature]:.0%}",
            VERDICTS[int(dictionary.verdict[feature])],
            most,
            self._example(feature),
        )

    def _example(self, feature: int) -> str:
        """The text about the row on which the feature fires most."""
        mine = np.flatnonzero(self._found.feature == feature)
        if not len(mine):
            return ""
        strongest = mine[np.argmax(self._found.activation[mine])]
        return self._snippets.text(int(self._found.row[strongest]))


def names_of(dictionary: Dictionary) -> tuple[LayerNames, Evidence, np.ndarray]:
    """The layer names of a dictionary, what they are worth, and norms of the decoder rows."""
    names = LayerNames(
        dictionary.layer_token_ids, dictionary.layer_relation, dictionary.layer_expected
    )
    worth = Evidence(
        name_hold=dictionary.layer_hold,
        name_lift=dictionary.layer_lift,
        name_rows=dictionary.layer_rows,
        hold=dictionary.hold,
        verdict=dictionary.verdict,
    )
    return names, worth, np.linalg.norm(dictionary.W_dec.astype(np.float64), axis=1)
