"""Every figure that the runs of a report have data for."""

from collections.abc import Sequence

from vasae_jax.report.figures.chart import Chart
from vasae_jax.report.figures.names import alignment, alignment_by_run, coverage, hold_by_run
from vasae_jax.report.figures.runs import by_position, curves, density, frontier
from vasae_jax.report.panel import Panel


def all_charts(panels: Sequence[Panel]) -> list[Chart]:
    """In the order in which they are shown; a frontier needs two runs."""
    charts = [hold_by_run(panels), alignment(panels), alignment_by_run(panels), coverage(panels)]
    charts += [density(panels), by_position(panels)]
    if len(panels) > 1:
        charts.insert(1, frontier(panels))
    if any(panel.curves for panel in panels):
        charts.append(curves(panels))
    return charts
