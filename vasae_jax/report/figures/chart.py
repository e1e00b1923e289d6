"""A chart: its drawing, title, caption and data; and the look that all figures share."""

import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vasae_jax.utils.files import atomic_file, write_bytes
from vasae_jax.utils.shown import csv_text

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#9b5fa5", "#56b4e9")
"""After Okabe and Ito (2008), which the colour-blind can tell apart."""
BLUE, ORANGE, GREEN, *_ = COLOURS
GREY = "#8a8a8a"
"""For baselines."""
MARKERS = ("o", "s", "^", "D", "v")
DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1)))
"""Beside the colours, to tell lines apart in print too."""

STYLE = Path(__file__).with_name("chart.mplstyle")
"""The look of a report's figures, as Matplotlib's settings."""
METADATA = {"svg": {"Date": None}, "png": {"Software": None}}
"""What is left out of a file, by its kind, so that the same figure gives the same bytes."""


def styled() -> AbstractContextManager[None]:
    """A context in which figures have that look, whatever the user's settings are."""
    return matplotlib.rc_context(fname=STYLE)


def unstyled() -> AbstractContextManager[None]:
    """A context in which figures have Matplotlib's look, whatever the user's settings are."""
    settings = {**matplotlib.rcParamsDefault, "font.family": "DejaVu Sans"}
    return matplotlib.rc_context({**settings, "text.parse_math": False})


def save_figure(figure: Figure, path: Path, kind: str, **settings: Any) -> None:
    """Write a figure as ``kind``, png or svg; UserError if that fails."""
    with atomic_file(path) as file:
        figure.savefig(file, format=kind, metadata=METADATA[kind], **settings)


def wrapped(label: str) -> str:
    """A run's label in lines short enough to leave room for what is drawn."""
    return textwrap.fill(label, 28)


def percent(axes: Axes, which: str = "y") -> None:
    """Show shares as percent."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(PercentFormatter(1))


def look(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of line ``number``."""
    place = number % len(COLOURS)
    return {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": DASHES[place]}


def legend(axes: Axes) -> None:
    """A legend above the axes, where it hides nothing."""
    count = len(axes.get_legend_handles_labels()[0])
    if count > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=min(count, 4), fontsize=8.5)


@dataclass(frozen=True)
class Chart:
    """One figure."""

    name: str
    """The name of its files, without an ending."""
    title: str
    caption: str
    """What it shows, and what it does not."""
    head: tuple[str, ...]
    """Columns of its data."""
    lines: Sequence[Sequence[object]]
    draw: Callable[[Axes], None]
    size: tuple[float, float] = (7.2, 4.0)
    """Inches."""


def write_chart(chart: Chart, folder: Path) -> dict[str, str]:
    """Write NAME.svg, NAME.png and NAME.csv into ``folder``; name, title and caption for the page.

    The same chart gives the same bytes, with one version of matplotlib.

    Raises:
        UserError: the folder cannot be written.
    """
    with styled():
        figure = Figure(figsize=chart.size, layout="constrained")
        chart.draw(figure.add_subplot())
        for kind in METADATA:
            save_figure(figure, folder / f"{chart.name}.{kind}", kind)
    write_bytes(folder / f"{chart.name}.csv", csv_text([chart.head, *chart.lines]).encode())
    return {"name": chart.name, "title": chart.title, "caption": chart.caption}
