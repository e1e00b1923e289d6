"""Figures of a sweep: a frontier of two measures, and the effect of each axis."""

import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vasae_jax.evaluation.measures import better
from vasae_jax.report.figures.chart import BLUE, GREEN, ORANGE, save_figure, unstyled
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import refuse_existing
from vasae_jax.utils.shown import shown

LAYER = "data.layer"
STYLES = tuple(zip(("#555555", ORANGE, "#cc79a7", BLUE, GREEN), "XsDo^", strict=True))
"""Colour and marker of each value of a setting in turn; shapes differ too."""
MAX_VALUES = 8
"""Most values of a setting for which points get colours unasked."""
WORDS = {"hold1": "held by the first name", "hold10": "activation held by ten names"}
"""What a figure calls a column whose name says too little."""
Row = Mapping[str, Any]


def sweep_figures(
    rows: Sequence[Row],
    axes: Sequence[str],
    pair: tuple[str, str],
    out: str | os.PathLike[str],
    by: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write ``out``/frontier.png and ``out``/axes.png, with axes for each layer.

    Args:
        rows: of the sweep's table; those without both measures are left out.
        axes: settings that vary, by name.
        pair: the columns along and up the frontier.
        out: directory of the sweep.
        by: the setting by which points are coloured; None: the first with few values.
        overwrite: replace figures that are there.

    Raises:
        UserError: no row has both measures, or a figure exists and may not be replaced.
    """
    measured = [row for row in rows if all(row[name] is not None for name in pair)]
    if not measured:
        raise UserError(f"no run has {pair[0]} and {pair[1]} yet; expected at least one")
    files = [Path(out) / "frontier.png", Path(out) / "axes.png"]
    for file in files:
        refuse_existing(file, overwrite=overwrite)
    settings = _independent(measured, [axis for axis in axes if axis != LAYER])
    few = (axis for axis in settings if len(_values(measured, axis)) <= MAX_VALUES)
    by = by or next(few, None)
    with unstyled():
        save_figure(_frontier(measured, by, pair), files[0], "png", dpi=130)
        save_figure(_effects(measured, settings or [LAYER], pair), files[1], "png", dpi=130)
    return files


def _independent(rows: Sequence[Row], axes: Sequence[str]) -> list[str]:
    """The axes with several values, without those that split the runs as an earlier one does."""
    kept: dict[tuple[int, ...], str] = {}
    for axis in axes:
        values = list(dict.fromkeys(row[axis] for row in rows))
        if len(values) > 1:
            kept.setdefault(tuple(values.index(row[axis]) for row in rows), axis)
    return list(kept.values())


def _frontier(rows: Sequence[Row], by: str | None, pair: tuple[str, str]) -> Figure:
    """A point for each run; those that no other is ahead of in both are joined: see front_of."""
    layers = sorted({row[LAYER] for row in rows})
    figure, grid = _grid(1, len(layers))
    for axes, layer in zip(grid[0], layers, strict=True):
        of_layer = [row for row in rows if row[LAYER] == layer]
        if front := front_of([(row[pair[0]], row[pair[1]]) for row in of_layer], pair):
            axes.plot(*zip(*front, strict=True), color="#999999", linewidth=1, zorder=1)
        values = _values(rows, by) if by else [None]
        for value, (colour, marker) in zip(values, itertools.cycle(STYLES), strict=False):
            same = [row for row in of_layer if by is None or row[by] == value]
            x, y = ([row[name] for row in same] for name in pair)
            label = "" if by is None else f"{_short(by)} {_text(value)}"
            axes.scatter(x, y, color=colour, marker=marker, label=label, s=28)
        axes.set_title(f"layer {layer}", fontsize=10)
        axes.set(xlabel=_short(pair[0]), ylabel=_short(pair[1]))
        axes.locator_params(axis="x", nbins=5)  # long decimals must not touch
    if by:
        grid[0][-1].legend(fontsize=8, frameon=False)
    return figure


def _effects(rows: Sequence[Row], settings: Sequence[str], pair: tuple[str, str]) -> Figure:
    """For each setting the mean at each value, with a band from the least to the largest run."""
    layers = sorted({row[LAYER] for row in rows})
    figure, grid = _grid(2 * len(layers), len(settings))
    lines = [(layer, measure) for layer in layers for measure in pair]
    for line, (layer, measure) in zip(grid, lines, strict=True):
        of_layer = [row for row in rows if row[LAYER] == layer]
        for axes, setting in zip(line, settings, strict=True):
            _effect(axes, of_layer, setting, measure)
            axes.set_xlabel(_short(setting))
        line[0].set_ylabel(f"layer {layer}\n{_short(measure)}", fontsize=8)
    return figure


def _effect(axes: Axes, rows: Sequence[Row], setting: str, measure: str) -> None:
    values = _values(rows, setting)
    by_value = [
        np.array([row[measure] for row in rows if row[setting] == value]) for value in values
    ]
    places = np.arange(len(values))
    least, largest = [run.min() for run in by_value], [run.max() for run in by_value]
    axes.fill_between(places, least, largest, color=BLUE, alpha=0.15)
    for place, run in zip(places, by_value, strict=True):
        axes.plot(np.full(len(run), place), run, ".", color=BLUE, alpha=0.5, markersize=4)
    axes.plot(places, [run.mean() for run in by_value], color=BLUE, marker="o", markersize=4)
    axes.set_xticks(places, [_text(value) for value in values], fontsize=8)


def _grid(down: int, across: int) -> tuple[Figure, Any]:
    figure = Figure(figsize=(1 + 3.6 * across, 0.6 + 2.6 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes in grid.flat:
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


def front_of(
    points: Iterable[tuple[float, float]], pair: tuple[str, str]
) -> list[tuple[float, float]]:
    """The points that no other is ahead of in both measures of ``pair``, from left to right.

    None where of one of them neither more nor less is better.
    """
    ways = [better(name) for name in pair]
    if not all(way in ("more", "less") for way in ways):
        return []
    x_sign, y_sign = (1 if way == "more" else -1 for way in ways)
    best: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda p: (x_sign * p[0], y_sign * p[1]), reverse=True):
        if not best or y_sign * y > y_sign * best[-1][1]:
            best.append((x, y))
    return sorted(best)


def _values(rows: Sequence[Row], axis: str) -> list[Any]:
    values = {row[axis] for row in rows}
    return sorted(values, key=lambda value: (str(type(value)), "" if value is None else value))


def _short(name: str) -> str:
    last = name.split(".")[-1]
    return WORDS.get(last, last.replace("_", " "))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(str(value))
