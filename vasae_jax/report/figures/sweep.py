"""Figures of a sweep: a frontier of two measures, and the effect of each axis."""

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vasae_jax.report.figures.frontier import STYLES
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import atomic_file, refuse_existing

LAYER = "data.layer"
LEGEND = 8
"""Most values of an axis that points are told apart by."""
WORDS = {"hold1": "held by the first name", "hold10": "activation held by ten names"}
"""What a column is called in a figure, where its own name does not say it."""
Row = Mapping[str, Any]


def sweep_figures(
    rows: Sequence[Row],
    axes: Sequence[str],
    pair: tuple[str, str],
    out: str | os.PathLike[str],
    overwrite: bool = False,
) -> list[Path]:
    """Write ``out``/frontier.png and ``out``/axes.png, a panel for each layer.

    Args:
        rows: of the sweep's table; those without both measures are left out.
        axes: settings that vary, by name.
        pair: the columns along and up the frontier.
        out: directory of the sweep.
        overwrite: replace figures that are there.

    Raises:
        UserError: no row has both measures, or a figure exists and may not be replaced.
    """
    found = [row for row in rows if all(row[name] is not None for name in pair)]
    if not found:
        raise UserError(f"no run has {pair[0]} and {pair[1]} yet; expected at least one")
    files = [Path(out) / "frontier.png", Path(out) / "axes.png"]
    for file in files:
        refuse_existing(file, overwrite=overwrite)
    others = [axis for axis in axes if axis != LAYER]
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, "font.family": "DejaVu Sans"}):
        for file, figure in zip(
            files, (_frontier(found, others, pair), _effects(found, others, pair)), strict=True
        ):
            with atomic_file(file) as handle:
                figure.savefig(handle, format="png", dpi=130, metadata={"Software": None})
    return files


def _frontier(rows: Sequence[Row], axes: Sequence[str], pair: tuple[str, str]) -> Figure:
    """A point for each run; the points that no other is ahead of in both are joined."""
    layers = sorted({row[LAYER] for row in rows})
    figure, grid = _grid(1, len(layers))
    by = next((axis for axis in axes if 1 < len(_values(rows, axis)) <= LEGEND), None)
    for panel, layer in zip(grid[0], layers, strict=True):
        mine = [row for row in rows if row[LAYER] == layer]
        front = _front([(row[pair[0]], row[pair[1]]) for row in mine])
        panel.plot(*zip(*front, strict=True), color="#999999", linewidth=1, zorder=1)
        for value, (colour, marker) in zip(
            _values(rows, by) if by else [None], itertools.cycle(STYLES), strict=False
        ):
            same = [row for row in mine if by is None or row[by] == value]
            panel.scatter(
                [row[pair[0]] for row in same],
                [row[pair[1]] for row in same],
                color=colour,
                marker=marker,
                label="" if by is None else f"{_short(by)} {_text(value)}",
                s=28,
            )
        panel.set_title(f"layer {layer}", fontsize=10)
        panel.set_xlabel(_short(pair[0]))
        panel.set_ylabel(_short(pair[1]))
        panel.locator_params(axis="x", nbins=5)  # long decimals must not touch
    if by:
        grid[0][-1].legend(fontsize=8, frameon=False)
    return figure


def _effects(rows: Sequence[Row], axes: Sequence[str], pair: tuple[str, str]) -> Figure:
    """For each axis the mean at each value, with a band from the least to the largest run."""
    layers = sorted({row[LAYER] for row in rows})
    shown = [axis for axis in axes if len(_values(rows, axis)) > 1] or [LAYER]
    figure, grid = _grid(2 * len(layers), len(shown))
    lines = [(layer, measure) for layer in layers for measure in pair]
    for panels, (layer, measure) in zip(grid, lines, strict=True):
        mine = [row for row in rows if row[LAYER] == layer]
        for panel, axis in zip(panels, shown, strict=True):
            _effect(panel, mine, axis, measure)
            panel.set_xlabel(_short(axis))
        panels[0].set_ylabel(f"layer {layer}\n{_short(measure)}", fontsize=8)
    return figure


def _effect(panel: Axes, rows: Sequence[Row], axis: str, measure: str) -> None:
    values = _values(rows, axis)
    same = [np.array([row[measure] for row in rows if row[axis] == value]) for value in values]
    at = np.arange(len(values))
    panel.fill_between(
        at, [one.min() for one in same], [one.max() for one in same], color="#0072b2", alpha=0.15
    )
    for place, one in zip(at, same, strict=True):
        panel.plot(np.full(len(one), place), one, ".", color="#0072b2", alpha=0.5, markersize=4)
    panel.plot(at, [one.mean() for one in same], color="#0072b2", marker="o", markersize=4)
    panel.set_xticks(at, [_text(value) for value in values], fontsize=8)


def _grid(down: int, across: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(1 + 3.6 * across, 0.6 + 2.6 * down), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False)
    for panel in grid.flat:
        panel.grid(color="#dddddd", linewidth=0.6)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    return figure, grid


def _front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that none is ahead of in both, from left to right."""
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, reverse=True):
        if not best or y > best[-1][1]:
            best.append((x, y))
    return best[::-1]


def _values(rows: Sequence[Row], axis: str) -> list[Any]:
    found = {row[axis] for row in rows}
    return sorted(found, key=lambda value: (str(type(value)), "" if value is None else value))


def _short(name: str) -> str:
    last = name.split(".")[-1]
    return WORDS.get(last, last.replace("_", " "))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
