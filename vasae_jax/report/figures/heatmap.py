"""A heatmap drawn as PNG or SVG."""

import os
import textwrap
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterSciNotation

from vasae_jax.dictionary.claims import CLAIM, LAYER_CLAIM
from vasae_jax.evaluation.sentence import Mode
from vasae_jax.report.figures.chart import save_figure, styled
from vasae_jax.report.heatmap import Heatmap
from vasae_jax.utils.shown import shown

COLOURS = "Blues"
CELL = 1.15, 0.62
"""Inches."""
LONGEST = 12
"""Characters of a name shown in a cell."""
Kind = Literal["layer", "embedding"]
"""Layer names, or names by embedding as in the paper's heatmaps."""
COLOUR_BAR: dict[Mode, str] = {
    "centred": "activation less its mean over the sentence (log scale)",
    "raw": "activation (log scale)",
}


def heatmap_figure(
    heatmap: Heatmap, mode: Mode, out: str | os.PathLike[str], kind: Kind = "layer"
) -> Path:
    """Draw ``heatmap`` to ``out``, a PNG or an SVG by its ending, with names of a kind.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(out)
    with styled():
        save_figure(_figure(heatmap, mode, kind), path, path.suffix[1:])
    return path


def _figure(heatmap: Heatmap, mode: Mode, kind: Kind) -> Figure:
    rows, columns = len(heatmap.labels), len(heatmap.tokens)
    width, height = 2.2 + CELL[0] * columns, 2.1 + CELL[1] * rows
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(False)
    _cells(figure, axes, heatmap, mode, kind)
    title = shown(f"{heatmap.model}: {heatmap.case.text}")
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    claim = textwrap.fill(LAYER_CLAIM if kind == "layer" else CLAIM, round(width * 14))
    figure.supxlabel(claim, fontsize=7, color="#555555", x=0.01, ha="left")
    return figure


def _cells(figure: Figure, axes: Axes, heatmap: Heatmap, mode: Mode, kind: Kind) -> None:
    lines = heatmap.lines[mode]
    values = np.array([line.cells.value for line in lines], np.float64)
    positive = values[values > 0]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 2.0)
    norm = LogNorm(low * 0.8, max(high, low * 1.01))
    image = axes.imshow(
        np.where(values > 0, values, np.nan), cmap=COLOURS, norm=norm, aspect="auto"
    )
    for row, column in zip(*np.nonzero(values > 0), strict=True):
        line = lines[row]
        if kind == "layer":
            text = f"{line.relations[column]}\n{_short(line.names[column])}"
        else:
            text = _short(line.embeddings[column])
        colour = "white" if norm(values[row, column]) > 0.55 else "#1d1c1a"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(heatmap.tokens)), heatmap.tokens)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(heatmap.labels)), [label.text for label in heatmap.labels])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01)
    bar.formatter, bar.minorformatter = _Plain(), _Plain()
    bar.set_label(COLOUR_BAR[mode], fontsize=8)
    bar.outline.set_visible(False)


class _Plain(LogFormatterSciNotation):
    """Labels the ticks that Matplotlib chooses, as numbers and not as mathematics."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"
