"""Figures of runs: how they trained, how often features fire, where the error lies."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vasae_jax.report.figures.chart import Chart, legend, look, percent, wrapped
from vasae_jax.report.run_report import RunReport

RATES = np.linspace(-6, 0, 31)
"""Edges of log10(fire rate)."""
Line = tuple[str, np.ndarray, np.ndarray]
"""A run's label, x and y."""


def density(reports: Sequence[RunReport]) -> Chart:
    """How often features fire."""
    lines = [(r.label.text, RATES[:-1] + 0.1, _rates(r)) for r in reports]
    return _lines(
        "density",
        "How often features fire",
        "Share of the firing features by the share of rows on which they fire, from once in a "
        "million rows to every row. Features that never fire are left out.",
        ("log10 of the fire rate", "share of firing features"),
        lines,
    )


def _rates(report: RunReport) -> np.ndarray:
    rate = report.dictionary.fire_rate
    counts, _ = np.histogram(np.log10(np.clip(rate[rate > 0], 1e-6, 1)), RATES)
    return counts / max(int(counts.sum()), 1)


def curves(reports: Sequence[RunReport]) -> Chart:
    """The share of the variance that is not explained, while training."""
    lines = []
    for report in (report for report in reports if report.curves):
        steps, fvu = (np.array([line[key] for line in report.curves]) for key in ("step", "fvu"))
        lines.append((report.label.text, steps, fvu))
    return _lines(
        "learning-curves",
        "Learning curves",
        "Share of a training batch's variance that is not explained, by step.",
        ("step", "variance not explained"),
        lines,
    )


def by_position(reports: Sequence[RunReport]) -> Chart:
    """The same on held-out rows, by position in the window."""
    lines = []
    for report in reports:
        positions = np.flatnonzero(np.isfinite(report.fvu_by_position))
        lines.append((report.label.text, positions, report.fvu_by_position[positions]))
    return _lines(
        "loss-by-position",
        "Error by position",
        "Squared error over squared distance to the mean of all rows, at each position of the "
        "window. Masked positions are left out.",
        ("position in the window", "variance not explained"),
        lines,
    )


def frontier(reports: Sequence[RunReport]) -> Chart:
    """What runs explain against what their names hold."""
    points = []
    for report in reports:
        explained = report.evaluation["unmasked"]["variance_explained"]
        points.append((report.label.text, round(explained, 5), round(report.scores[0].hold10, 5)))
    return Chart(
        "frontier",
        "Variance explained against what names hold",
        "A point is a run: how much of the variance it explains, and how much of a firing "
        "feature's activation its ten names hold. Runs on different layers do not compare.",
        ("run", "variance_explained", "hold10"),
        points,
        lambda axes: _draw_points(axes, points),
    )


def _draw_points(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    for number, (label, explained, hold10) in enumerate(points):
        style = look(number) | {"linestyle": "none"}
        axes.plot([explained], [hold10], markersize=8, label=label, **style)
        place = {"xytext": (7, 4), "textcoords": "offset points"}
        axes.annotate(wrapped(label), (explained, hold10), fontsize=8.5, **place)
    axes.margins(0.18)
    axes.set(xlabel="variance explained", ylabel="held by ten names")
    percent(axes)
    percent(axes, "x")


def _lines(
    name: str, title: str, caption: str, axis_names: tuple[str, str], lines: Sequence[Line]
) -> Chart:
    data = [
        (label, x, round(y, 6))
        for label, xs, ys in lines
        for x, y in zip(xs.round(4).tolist(), ys.tolist(), strict=True)
    ]
    head = ("run", *(text.replace(" ", "_") for text in axis_names))
    return Chart(
        name, title, caption, head, data, lambda axes: _draw_lines(axes, axis_names, lines)
    )


def _draw_lines(axes: Axes, axis_names: tuple[str, str], lines: Sequence[Line]) -> None:
    for number, (label, x, y) in enumerate(lines):
        style = look(number)
        axes.plot(x, y, color=style["color"], linestyle=style["linestyle"], label=label)
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    percent(axes)
    legend(axes)
