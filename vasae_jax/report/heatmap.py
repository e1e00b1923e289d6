"""Heatmaps as data: the name of the most active feature at each token of a sentence."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from vasae_jax.dictionary.claims import AT, NO_NAME, RELATIONS, UNTESTED
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.evaluation.patching.model import Model
from vasae_jax.evaluation.sentence import Cells, Mode, sentence_cells
from vasae_jax.report.labels import LabelledRun, RunLabel
from vasae_jax.utils.errors import UserError


@dataclass(frozen=True)
class Case:
    """A sentence to draw."""

    key: str
    text: str
    kind: str = ""
    """How plainly the names fit: clear, ambiguous or boundary; empty for the user's sentences."""
    topic: str = ""


with files("vasae_jax.report").joinpath("cases.csv").open(encoding="utf-8") as file:
    PUBLISHED = tuple(Case(**line) for line in csv.DictReader(file))
"""The eight published sentences, the plainest first.

Sentences, topics and kinds are those of the paper's own page, https://karry-z.github.io/VASAE/
(Kairui Zhang; the kinds are those given for GPT-2-small). They are quoted so that heatmaps can be
laid beside the published ones.
"""


def case_of(key: str) -> Case:
    """The published case named ``key``; UserError if there is none."""
    cases = {case.key: case for case in PUBLISHED}
    if key not in cases:
        raise UserError(f"case {key} is not known; expected one of {', '.join(cases)}")
    return cases[key]


@dataclass(frozen=True)
class CellNames:
    """The names that a cell may show, of each of F features."""

    ids: np.ndarray
    """int32 [F, n], tested names by the layer, best first, and then NO_NAME"""
    relation: np.ndarray
    """int8 [F], AT or BEFORE"""
    tokens: np.ndarray
    """int32 [F], by embedding"""

    def fitting(self, feature: int, token: int, next_token: int) -> int:
        """The name of ``feature`` on a row with these tokens: the one that fits, or the first."""
        ids = self.ids[feature]
        related = token if self.relation[feature] == AT else next_token
        return related if related != NO_NAME and related in ids else int(ids[0])


def cell_names(dictionary: Dictionary) -> CellNames:
    """The names of a dictionary's features that a cell may show."""
    together = dictionary.tested_together
    tested = together | (dictionary.layer_verdict != UNTESTED)
    ids = np.where(tested, dictionary.layer_token_ids, NO_NAME)
    return CellNames(ids, dictionary.layer_relation, dictionary.token_ids[:, 0])


@dataclass(frozen=True)
class HeatmapLine:
    """The cells of one run in one mode; strings are empty where there is no cell."""

    cells: Cells
    names: list[str]
    """The layer name of each cell's feature, in printable form; empty if none is tested."""
    relations: list[str]
    """``at`` or ``before``."""
    embeddings: list[str]
    """The token of the nearest embedding."""


@dataclass(frozen=True)
class Heatmap:
    """The heatmap of one sentence, in every mode."""

    case: Case
    model: str
    tokens: tuple[str, ...]
    """Printable"""
    labels: tuple[RunLabel, ...]
    lines: dict[Mode, list[HeatmapLine]]
    """For each mode a line for each label."""


def make_heatmap(
    runs: Sequence[LabelledRun], names: Sequence[CellNames], model: Model, case: Case
) -> Heatmap:
    """Run ``model`` on the sentence of ``case`` and find the most active features of each run.

    Args:
        runs: runs on caches of one model.
        names: of the features of each run.
        model: the language model of their caches.
        case: the sentence.

    Raises:
        UserError: what :func:`sentence_cells` refuses.
    """
    vocab = runs[0].run.cache.vocab()
    tokens, cells_by_mode = sentence_cells([labelled.run for labelled in runs], model, case.text)

    pairs = list(zip(tokens.tolist(), [*tokens[1:].tolist(), NO_NAME], strict=True))

    def line(known: CellNames, cells: Cells) -> HeatmapLine:
        features = cells.feature.tolist()
        ids = [
            known.fitting(feature, *pair) if feature >= 0 else NO_NAME
            for feature, pair in zip(features, pairs, strict=True)
        ]
        return HeatmapLine(
            cells,
            names=[vocab.display(token) if token != NO_NAME else "" for token in ids],
            relations=[
                RELATIONS[known.relation[f]] if token != NO_NAME else ""
                for f, token in zip(features, ids, strict=True)
            ],
            embeddings=[vocab.display(int(known.tokens[f])) if f >= 0 else "" for f in features],
        )

    return Heatmap(
        case=case,
        model=runs[0].label.model,
        tokens=tuple(vocab.display(int(token)) for token in tokens),
        labels=tuple(labelled.label for labelled in runs),
        lines={mode: list(map(line, names, cells)) for mode, cells in cells_by_mode.items()},
    )
