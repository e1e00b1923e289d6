"""Figures of runs: how they trained, how often features fire, and what their names are worth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from vasae_jax.dictionary.claims import BUCKETS, HOLDS
from vasae_jax.report.figures import chart
from vasae_jax.report.figures.chart import BLUE, GREEN, GREY, ORANGE, Chart
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
        style = chart.look(number) | {"linestyle": "none"}
        axes.plot([explained], [hold10], markersize=8, label=label, **style)
        place, offset = (explained, hold10), (7, 4)
        axes.annotate(chart.wrapped(label), place, offset, textcoords="offset points", fontsize=8.5)
    axes.margins(0.18)
    axes.set(xlabel="variance explained", ylabel="held by ten names")
    chart.percent(axes)
    chart.percent(axes, "x")


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
        style = chart.look(number)
        axes.plot(x, y, color=style["color"], linestyle=style["linestyle"], label=label)
    axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    chart.percent(axes)
    chart.legend(axes)


ALIGNED = BUCKETS[0][1]
EDGES = np.linspace(0, 1, 51)


def alignment(reports: Sequence[RunReport]) -> Chart:
    """Each feature's nearest cosine: by method, the dictionary and its firing features apart."""
    groups = _by_method(reports)
    lines = [
        (method, which, round(float(edge), 2), round(float(share), 6))
        for method, parts in groups.items()
        for which, cosines in parts.items()
        for edge, share in zip(EDGES[:-1], _shares(cosines), strict=True)
    ]
    return Chart(
        "alignment",
        "How near features are to embeddings",
        "Cosine between a decoder row and its nearest token embedding, as a share of features. "
        f"Aligned means {ALIGNED} or more (the dotted line). Nearness is not evidence: a feature "
        "that never fires can lie on a token.",
        ("method", "features", "cosine_from", "share"),
        lines,
        lambda axes: _draw_alignment(axes, groups),
    )


def _by_method(reports: Sequence[RunReport]) -> dict[str, dict[str, np.ndarray]]:
    groups: dict[str, dict[str, np.ndarray]] = {}
    for method in dict.fromkeys(report.config.sae.method for report in reports):
        same = [r.dictionary for r in reports if r.config.sae.method == method]
        groups[method] = {
            "dictionary": np.concatenate([d.cosines[:, 0] for d in same]),
            "firing": np.concatenate([d.cosines[d.fire_rate > 0, 0] for d in same]),
        }
    return groups


def _shares(cosines: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(np.clip(cosines, 0, 1), EDGES)
    return counts / max(len(cosines), 1)


def _draw_alignment(axes: Axes, groups: dict[str, dict[str, np.ndarray]]) -> None:
    for number, (method, parts) in enumerate(groups.items()):
        colour = chart.look(number)["color"]
        for which, cosines in parts.items():
            style = "-" if which == "firing" else (0, (4, 2))
            label = f"{method}, {'features that fire' if which == 'firing' else 'dictionary'}"
            axes.stairs(_shares(cosines), EDGES, color=colour, linestyle=style, label=label)
    axes.axvline(ALIGNED, color=ORANGE, linestyle=":", linewidth=1.4)
    axes.set(xlim=(0, 1), xlabel="cosine to the nearest embedding", ylabel="share of features")
    chart.percent(axes)
    chart.legend(axes)


def alignment_by_run(reports: Sequence[RunReport]) -> Chart:
    """The same of the firing features of each run, as boxes."""
    cosines = [r.dictionary.cosines[r.dictionary.fire_rate > 0, 0] for r in reports]
    cuts = [np.percentile(c, (5, 25, 50, 75, 95)) if len(c) else np.zeros(5) for c in cosines]
    lines = [
        (report.label.text, *(round(float(x), 4) for x in cut))
        for report, cut in zip(reports, cuts, strict=True)
    ]
    return Chart(
        "alignment-by-run",
        "Nearness to embeddings by run",
        "Cosine to the nearest embedding of the features that fire: median, quartiles, and from "
        "the 5th to the 95th percentile.",
        ("run", "p5", "p25", "median", "p75", "p95"),
        lines,
        lambda axes: _draw_boxes(axes, lines),
        size=_wide(reports),
    )


def _draw_boxes(axes: Axes, lines: Sequence[Sequence[Any]]) -> None:
    boxes = [
        dict(zip(("label", "whislo", "q1", "med", "q3", "whishi"), line, strict=True))
        for line in lines
    ]
    axes.bxp(
        boxes,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": "#cfe3f2", "edgecolor": BLUE},
        medianprops={"color": ORANGE, "linewidth": 1.8},
    )
    axes.axhline(ALIGNED, color=ORANGE, linestyle=":", linewidth=1.4)
    axes.set(ylim=(0, 1), ylabel="cosine to the nearest embedding")
    _label_runs(axes, lines)


HOLD_LINES = (
    ("hold10", "all names", BLUE, "o"),
    ("ceiling10", "its own best ten", GREY, "_"),
    ("hold1", "first name", GREEN, "s"),
    ("ceiling1", "its own best one", GREY, "|"),
    ("shuffled10", "shuffled, ten", ORANGE, "x"),
)


def hold_by_run(reports: Sequence[RunReport]) -> Chart:
    """What layer names hold in each run, beside what chance and the best names hold."""
    keys = [key for key, *_ in HOLD_LINES]
    lines = [
        (r.label.text, *(round(getattr(r.scores[0], key), 5) for key in keys)) for r in reports
    ]
    return Chart(
        "hold-by-run",
        "What layer names hold",
        "Share of a firing feature's activation at (or just before) its names on held-out text, "
        "mean over features. Shuffled: names of other features. Best: the tokens that hold most, "
        "chosen on the rows that are measured, so that no names can hold more.",
        ("run", *keys),
        lines,
        lambda axes: _draw_hold(axes, lines),
        size=_wide(reports),
    )


def _draw_hold(axes: Axes, lines: Sequence[Sequence[Any]]) -> None:
    places = np.arange(len(lines))
    for number, (_, label, colour, marker) in enumerate(HOLD_LINES, start=1):
        values = [line[number] for line in lines]
        joined = "-" if marker in "os" and len(lines) > 1 else "none"
        look: dict[str, Any] = {"marker": marker, "color": colour, "linestyle": joined}
        axes.plot(places, values, label=label, markersize=8, markeredgewidth=1.6, **look)
    axes.set_xticks(places)
    axes.set_xlim(-0.5, len(lines) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("share of activation held")
    chart.percent(axes)
    chart.legend(axes)
    _label_runs(axes, lines)


def coverage(reports: Sequence[RunReport]) -> Chart:
    """How many different tokens are names."""
    lines = [(r.label.text, *_covered(r)) for r in reports]
    return Chart(
        "coverage",
        "Tokens that are names",
        "Different tokens among first names of features that fire: tested layer names, those "
        f"that hold, and names by embedding of cosine {ALIGNED} or more.",
        ("run", "layer_names", "layer_names_that_hold", "aligned_embeddings", "vocabulary"),
        lines,
        lambda axes: _draw_coverage(axes, lines),
        size=_wide(reports),
    )


def _covered(report: RunReport) -> tuple[int, ...]:
    dictionary = report.dictionary
    fires, first = dictionary.fire_rate > 0, dictionary.layer_token_ids[:, 0]
    shown, holds = fires & dictionary.shown, fires & (dictionary.verdict == HOLDS)
    aligned = fires & (dictionary.cosines[:, 0] >= ALIGNED)
    counts = [len(np.unique(ids)) for ids in (first[shown], first[holds])]
    return *counts, len(np.unique(dictionary.token_ids[aligned, 0])), len(report.vocab)


def _draw_coverage(axes: Axes, lines: Sequence[Sequence[Any]]) -> None:
    places = np.arange(len(lines))
    labels = ("layer names", "that hold", "aligned embeddings")
    for number, (label, colour) in enumerate(zip(labels, (BLUE, GREEN, GREY), strict=True)):
        values = [line[number + 1] for line in lines]
        axes.bar(places + (number - 1) * 0.27, values, 0.25, label=label, color=colour)
    axes.set_xticks(places)
    axes.set_ylabel("different tokens")
    axes.yaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")
    chart.legend(axes)
    _label_runs(axes, lines)


def _label_runs(axes: Axes, lines: Sequence[Sequence[Any]]) -> None:
    """Labels of runs, which begin ``lines``; at a slant where they are long or many."""
    labels = [chart.wrapped(str(line[0])) for line in lines]
    widest = max(len(part) for label in labels for part in label.split("\n"))
    long = widest * len(labels) > 80
    rotation, ha = (30, "right") if long else (0, "center")
    axes.set_xticks(axes.get_xticks(), labels, rotation=rotation, ha=ha)


def _wide(reports: Sequence[RunReport]) -> tuple[float, float]:
    return max(7.2, 0.8 * len(reports) + 2), 4.0
