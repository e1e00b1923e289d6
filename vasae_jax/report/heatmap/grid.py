"""A heatmap as data: rows are runs, columns are tokens, a cell is a named feature."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vasae_jax.cache.vocab import Vocab
from vasae_jax.evaluation.patching.model import Model
from vasae_jax.evaluation.run import run_names
from vasae_jax.evaluation.sentence import Cells, Mode, sentence_cells
from vasae_jax.naming.layer import RELATIONS
from vasae_jax.report.heatmap.cases import Case
from vasae_jax.report.labels import Given, Label
from vasae_jax.training.trained import Run


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
class Row:
    """A run with the names of its features."""

    label: Label
    run: Run
    names: FirstNames


@dataclass(frozen=True)
class Grid:
    """The heatmap of one sentence, in every mode."""

    case: Case
    model: str
    tokens: tuple[str, ...]
    """Printable"""
    labels: tuple[Label, ...]
    cells: dict[Mode, list[Cells]]
    """For each mode a line of cells for each label."""
    names: dict[Mode, list[list[str]]]
    """The same, each cell's name in printable form; empty where there is no cell."""
    relations: dict[Mode, list[list[str]]]
    """The same: ``at`` or ``before``."""
    embeddings: dict[Mode, list[list[str]]]
    """The same: the token of the nearest embedding."""


def make_grid(rows: Sequence[Row], model: Model, case: Case) -> Grid:
    """Run ``model`` on the sentence of ``case`` and look what fires in each run.

    Raises:
        UserError: what :func:`sentence_cells` refuses.
    """
    vocab = rows[0].run.cache.vocab()
    tokens, cells = sentence_cells([row.run for row in rows], model, case.text)
    return Grid(
        case=case,
        model=rows[0].label.model,
        tokens=tuple(vocab.display(int(token)) for token in tokens),
        labels=tuple(row.label for row in rows),
        cells=cells,
        names={
            mode: _names([row.names.ids for row in rows], lines, vocab)
            for mode, lines in cells.items()
        },
        relations={mode: _relations(rows, lines) for mode, lines in cells.items()},
        embeddings={
            mode: _names([row.names.tokens for row in rows], lines, vocab)
            for mode, lines in cells.items()
        },
    )


def name_rows(runs: Sequence[Given]) -> list[Row]:
    """Runs with the first names of every feature; the names are worked out."""
    rows = []
    for one in runs:
        found = run_names(one.run)
        names = FirstNames(found.layer.ids[:, 0], found.layer.relation, found.stated.ids[:, 0])
        rows.append(Row(one.label, one.run, names))
    return rows


def _names(ids: Sequence[np.ndarray], lines: Sequence[Cells], vocab: Vocab) -> list[list[str]]:
    return [
        [vocab.display(int(own[f])) if f >= 0 else "" for f in line.feature.tolist()]
        for own, line in zip(ids, lines, strict=True)
    ]


def _relations(rows: Sequence[Row], lines: Sequence[Cells]) -> list[list[str]]:
    return [
        [RELATIONS[row.names.relation[f]] if f >= 0 else "" for f in line.feature.tolist()]
        for row, line in zip(rows, lines, strict=True)
    ]
