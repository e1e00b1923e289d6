"""The figure of a frontier: what each recipe reconstructs against what it aligns."""

import itertools
import os
import textwrap
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vasae_jax.dictionary.claims import LAYER_CLAIM
from vasae_jax.report.frontier import Row, group
from vasae_jax.utils.files import atomic_file, refuse_existing

LEADING = (
    ("hold10", "activation held by ten names"),
    ("hold1", "held by the first name"),
    ("mass", "activation mass held by ten"),
)
"""Panels that are always drawn: key and label. Their points show their lambda."""
OTHERS = (("firing_aligned", "firing features aligned"), ("dead_fraction", "dead features"))
"""Panels that are drawn where there is something in them."""
CEILINGS = {"hold10": "ceiling10", "hold1": "ceiling1", "mass": "ceiling_mass"}
"""What any names could hold, by panel."""
LEAST = 0.01
"""Share that makes a panel of OTHERS worth drawing."""
SPAN = 0.03
"""Least width of a panel in variance explained, so that a small cost looks small."""
STYLES = (
    ("#555555", "X"),
    ("#d55e00", "s"),
    ("#cc79a7", "D"),
    ("#0072b2", "o"),
    ("#009e73", "^"),
)
"""Colour and marker of each recipe in turn: told apart by shape alone too."""


def frontier_figure(rows: list[Row], out: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write the frontier as a PNG: a column for each layer, a panel for each measure.

    A point is the mean over seeds, its bars reach from the least to the largest seed, and the
    number beside it is its lambda. The dash above it is what any names could hold. The same rows
    give the same bytes (with one version of matplotlib).

    Raises:
        UserError: ``out`` exists and ``overwrite`` was not asked for, or it cannot be written.
    """
    refuse_existing(out, overwrite=overwrite)
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "font.family": "DejaVu Sans"}):
        figure = _draw(rows)
        with atomic_file(out) as file:
            figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
    return Path(out)


def _draw(rows: list[Row]) -> Figure:
    layers = sorted({row["layer"] for row in rows})
    panels = LEADING + tuple(one for one in OTHERS if max(row[one[0]] for row in rows) > LEAST)
    heights = [2.5 if one in LEADING else 1.4 for one in panels]
    size = 1.2 + 3.4 * len(layers), 2.1 + 1.2 * sum(heights)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    grid = figure.subplots(
        len(panels), len(layers), sharex="col", squeeze=False, height_ratios=heights
    )
    figure.subplots_adjust(
        left=0.2 / len(layers), right=0.98, top=1 - 1.3 / size[1], bottom=0.95 / size[1]
    )
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    for column, layer in enumerate(layers):
        mine = [row for row in rows if row["layer"] == layer]
        for (key, label), axes in zip(panels, grid[:, column], strict=True):
            _panel(axes, mine, recipes, key)
            if column == 0:
                axes.set_ylabel(label)
        grid[0, column].set_title(f"layer {layer}", fontsize=10.5)
        grid[-1, column].set_xlabel("variance explained")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper right", ncols=len(labels), frameon=False, fontsize=9)
    top = 1 - 0.15 / size[1], 1 - 0.42 / size[1]
    figure.text(0.02, top[0], _title(rows[0]), fontsize=12, fontweight="bold", va="top")
    figure.text(0.02, top[1], _subtitle(rows), fontsize=8.5, va="top")
    width = 50 * len(layers)
    figure.text(0.02, 0.01, textwrap.fill(LAYER_CLAIM, width), fontsize=7, color="#444444")
    return figure


def _panel(axes: Axes, rows: list[Row], recipes: list[str], key: str) -> None:
    for recipe, (colour, marker) in zip(recipes, itertools.cycle(STYLES), strict=False):
        mine = [row for row in rows if row["recipe"] == recipe]
        _line(axes, mine, key, color=colour, marker=marker, label=recipe)
    if key in CEILINGS:
        axes.set_ylim(0, 1.1 * max(0.01, axes.get_ylim()[1]))
    else:
        axes.set_ylim(-0.04, 1.04)
    left, right = axes.get_xlim()
    spare = max(0.0, SPAN - (right - left)) / 2
    axes.set_xlim(left - spare, right + spare)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(color="#dddddd", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _line(axes: Axes, rows: list[Row], key: str, **style: Any) -> None:
    """One recipe's points in one panel, joined by lambda, with their spread over seeds."""
    found = sorted(
        ((weight, same) for (_, _, weight), same in group(rows).items()), key=lambda one: one[0]
    )
    x = [np.array([row["variance_explained"] for row in same]) for _, same in found]
    y = [np.array([row[key] for row in same]) for _, same in found]
    middle = [(float(a.mean()), float(b.mean())) for a, b in zip(x, y, strict=True)]
    for (weight, same), at, a, b in zip(found, middle, x, y, strict=True):
        axes.plot([a.min(), a.max()], [at[1]] * 2, color=style["color"], linewidth=1)
        axes.plot([at[0]] * 2, [b.min(), b.max()], color=style["color"], linewidth=1)
        if key in CEILINGS:
            most = float(np.mean([row[CEILINGS[key]] for row in same]))
            axes.plot(at[0], most, marker="_", markersize=9, color=style["color"], alpha=0.7)
            axes.annotate(f"{weight:g}", at, xytext=(5, 3), textcoords="offset points", fontsize=7)
    axes.plot(*zip(*middle, strict=True), markersize=5, linewidth=1.2, **style)


def _title(row: Row) -> str:
    model = row["model"] if len(row["model"]) <= 32 else "…" + row["model"][-31:]
    return f"{model}: reconstruction against names"


def _subtitle(rows: list[Row]) -> str:
    row = rows[0]
    counts = sorted({len(same) for same in group(rows).values()})
    seeds = " to ".join(map(str, sorted({counts[0], counts[-1]})))
    anchors = "; ".join(dict.fromkeys(f"{one['recipe']}: {one['anchor']}" for one in rows))
    return (
        f"{row['d_sae']:,} features, k {row['k']}, {row['steps']} steps of {row['batch']:,} rows, "
        f"{seeds} seed{'s' * (counts[-1] > 1)}; numbers are lambda, dashes what any names could "
        f"hold\ncosines to {anchors}"
    )
