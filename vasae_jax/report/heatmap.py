"""Heatmaps as data: the name of the most active feature at each token of a sentence.

The eight published sentences, their topics and their grouping are those of the paper's own page,
https://karry-z.github.io/VASAE/ (Kairui Zhang; the groups are the ones given for GPT-2-small).
They are quoted so that heatmaps can be laid beside the published ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vasae_jax.dictionary.claims import RELATIONS
from vasae_jax.evaluation.patching.model import Model
from vasae_jax.evaluation.run import run_names
from vasae_jax.evaluation.sentence import Cells, Mode, sentence_cells
from vasae_jax.report.labels import LabelledRun, RunLabel
from vasae_jax.training.run import Run
from vasae_jax.utils.errors import UserError

KINDS = ("clear", "ambiguous", "boundary")
"""How plainly the names fit the sentence, plainest first."""


@dataclass(frozen=True)
class Case:
    """A sentence to draw."""

    key: str
    text: str
    kind: str = ""
    """One of KINDS; empty for a sentence of one's own."""
    topic: str = ""


PUBLISHED = (
    Case(
        "names_townsend",
        "Pete Townsend, the legendary guitarist of The Who, walked down the street",
        "clear",
        "names, music",
    ),
    Case(
        "names_fey",
        "Tina Fey hosted the awards ceremony alongside her longtime collaborator",
        "clear",
        "names, awards",
    ),
    Case(
        "names_nicole",
        "Nicole Kidman accepted the award and thanked her family and friends",
        "clear",
        "names, events",
    ),
    Case(
        "place_street",
        "The cafe is located on Baker Street, just around the corner from the avenue",
        "clear",
        "location",
    ),
    Case(
        "self_intro",
        "my name is Bryan, I am a huge fan of yours. I was always very impressed with you",
        "clear",
        "template",
    ),
    Case(
        "morph_ible",
        "The proposal was perfectly feasible, entirely sensible, and quite reasonable",
        "ambiguous",
        "morphology",
    ),
    Case(
        "factual_einstein",
        "Albert Einstein was born in the year 1879 in the city of Ulm in the country of",
        "ambiguous",
        "facts",
    ),
    Case(
        "ioi_simple",
        "When John and Mary went to the store, John gave a drink to",
        "boundary",
        "relation",
    ),
)
"""In the order of KINDS."""


def case_of(key: str) -> Case:
    """The published case named ``key``; UserError if there is none."""
    for case in PUBLISHED:
        if case.key == key:
            return case
    known = ", ".join(case.key for case in PUBLISHED)
    raise UserError(f"case {key} is not known; expected one of {known}")


@dataclass(frozen=True)
class FirstNames:
    """The first names of each of F features."""

    ids: np.ndarray
    """int32 [F], by the layer"""
    relation: np.ndarray
    """int8 [F], AT or BEFORE"""
    tokens: np.ndarray
    """int32 [F], by embedding"""


@dataclass(frozen=True)
class HeatmapRow:
    """A run with the names of its features."""

    label: RunLabel
    run: Run
    names: FirstNames


@dataclass(frozen=True)
class Heatmap:
    """The heatmap of one sentence, in every mode."""

    case: Case
    model: str
    tokens: tuple[str, ...]
    """Printable"""
    labels: tuple[RunLabel, ...]
    cells: dict[Mode, list[Cells]]
    """For each mode a line of cells for each label."""
    names: dict[Mode, list[list[str]]]
    """The same, each cell's name in printable form; empty where there is no cell."""
    relations: dict[Mode, list[list[str]]]
    """The same: ``at`` or ``before``."""
    embeddings: dict[Mode, list[list[str]]]
    """The same: the token of the nearest embedding."""


def make_heatmap(rows: Sequence[HeatmapRow], model: Model, case: Case) -> Heatmap:
    """Run ``model`` on the sentence of ``case`` and find the most active features of each run.

    Raises:
        UserError: what :func:`sentence_cells` refuses.
    """
    vocab = rows[0].run.cache.vocab()
    tokens, cells = sentence_cells([row.run for row in rows], model, case.text)

    def texts(of: Callable[[FirstNames, int], str]) -> dict[Mode, list[list[str]]]:
        return {
            mode: [
                [of(row.names, f) if f >= 0 else "" for f in line.feature.tolist()]
                for row, line in zip(rows, lines, strict=True)
            ]
            for mode, lines in cells.items()
        }

    return Heatmap(
        case=case,
        model=rows[0].label.model,
        tokens=tuple(vocab.display(int(token)) for token in tokens),
        labels=tuple(row.label for row in rows),
        cells=cells,
        names=texts(lambda names, f: vocab.display(int(names.ids[f]))),
        relations=texts(lambda names, f: RELATIONS[names.relation[f]]),
        embeddings=texts(lambda names, f: vocab.display(int(names.tokens[f]))),
    )


def heatmap_rows(runs: Sequence[LabelledRun]) -> list[HeatmapRow]:
    """Runs with the first names of every feature, which are computed here."""
    rows = []
    for labelled in runs:
        names = run_names(labelled.run)
        first = FirstNames(names.layer.ids[:, 0], names.layer.relation, names.embedding.ids[:, 0])
        rows.append(HeatmapRow(labelled.label, labelled.run, first))
    return rows
