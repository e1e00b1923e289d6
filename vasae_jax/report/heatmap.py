"""Heatmaps as data: the name of the most active feature at each token of a sentence."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from vasae_jax.dictionary.claims import RELATIONS
from vasae_jax.evaluation.patching.model import Model
from vasae_jax.evaluation.run import run_names
from vasae_jax.evaluation.sentence import Cells, Mode, sentence_cells
from vasae_jax.report.labels import LabelledRun, RunLabel
from vasae_jax.training.run import Run
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
class FirstNames:
    """The first names of each of F features."""

    ids: np.ndarray
    """int32 [F], by the layer"""
    relation: np.ndarray
    """int8 [F], AT or BEFORE"""
    tokens: np.ndarray
    """int32 [F], by embedding"""


def first_names(run: Run) -> FirstNames:
    """The first names of a run's features, which are computed here."""
    names = run_names(run)
    return FirstNames(names.layer.ids[:, 0], names.layer.relation, names.embedding.ids[:, 0])


@dataclass(frozen=True)
class HeatmapLine:
    """The cells of one run in one mode; strings are empty where there is no cell."""

    cells: Cells
    names: list[str]
    """The layer name of each cell's feature, in printable form."""
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
    runs: Sequence[LabelledRun], names: Sequence[FirstNames], model: Model, case: Case
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

    def line(first: FirstNames, cells: Cells) -> HeatmapLine:
        features = cells.feature.tolist()
        return HeatmapLine(
            cells,
            names=[vocab.display(int(first.ids[f])) if f >= 0 else "" for f in features],
            relations=[RELATIONS[first.relation[f]] if f >= 0 else "" for f in features],
            embeddings=[vocab.display(int(first.tokens[f])) if f >= 0 else "" for f in features],
        )

    return Heatmap(
        case=case,
        model=runs[0].label.model,
        tokens=tuple(vocab.display(int(token)) for token in tokens),
        labels=tuple(labelled.label for labelled in runs),
        lines={mode: list(map(line, names, cells)) for mode, cells in cells_by_mode.items()},
    )
