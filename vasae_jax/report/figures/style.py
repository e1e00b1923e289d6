"""One look for every figure, with colours that every kind of eye can tell apart."""

import textwrap
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

BLUE, ORANGE, GREEN, PURPLE, SKY, GREY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#9b5fa5",
    "#56b4e9",
    "#8a8a8a",
)
"""After Okabe and Ito (2008); grey is for what is only compared with."""
COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v")
DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1)))
"""Beside the colours, so that lines are told apart in print too."""

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "savefig.dpi": 160,
    "svg.hashsalt": "vasae",
}
"""Matplotlib's settings."""


def styled() -> AbstractContextManager[Any]:
    """In this context figures have the project's look, whatever the user's own settings are."""
    own: Any = {**matplotlib.rcParamsDefault, **STYLE}
    context: AbstractContextManager[Any] = matplotlib.rc_context(own)
    return context


def wrapped(label: str) -> str:
    """A run's label in lines short enough to leave room for what is drawn."""
    return textwrap.fill(label, 28)


def percent(axes: Axes, which: str = "y") -> None:
    """Show shares as percent."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(PercentFormatter(1))


def look(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of the number-th thing."""
    place = number % len(COLOURS)
    return {"color": COLOURS[place], "marker": MARKERS[place], "linestyle": DASHES[place]}


def legend(axes: Axes) -> None:
    """A legend above the axes, where it hides nothing."""
    count = len(axes.get_legend_handles_labels()[0])
    if count > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=min(count, 4), fontsize=8.5)
