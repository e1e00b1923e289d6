"""A chart: what is drawn, what is said of it, and the numbers that it is drawn from."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vasae_jax.report.figures.style import styled
from vasae_jax.system.files import atomic_file, write_bytes


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
    """Write NAME.svg, NAME.png and NAME.csv into ``folder``; what the page says of them.

    The same chart gives the same bytes, with one version of matplotlib.

    Raises:
        UserError: the folder cannot be written.
    """
    with styled():
        figure = Figure(figsize=chart.size, layout="constrained")
        FigureCanvasAgg(figure)
        chart.draw(figure.add_subplot())
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            with atomic_file(folder / f"{chart.name}.{kind}") as file:
                figure.savefig(file, format=kind, metadata=metadata)
    write_bytes(folder / f"{chart.name}.csv", _csv(chart).encode())
    return {"name": chart.name, "title": chart.title, "caption": chart.caption}


def _csv(chart: Chart) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(chart.head)
    writer.writerows(chart.lines)
    return out.getvalue()
