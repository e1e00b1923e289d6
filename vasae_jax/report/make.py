"""Makes the folder of a report from runs."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vasae_jax.evaluation.patching.model import Model, check_model
from vasae_jax.report.figures import runs as figures
from vasae_jax.report.figures.chart import Chart
from vasae_jax.report.heatmap import PUBLISHED, Case, Heatmap, cell_names, make_heatmap
from vasae_jax.report.labels import LabelledRun
from vasae_jax.report.page.build import build_page, check_folder
from vasae_jax.report.run_report import Published, RunReport, make_run_report, match_features
from vasae_jax.training.log import print_once
from vasae_jax.utils.progress import Progress


@dataclass(frozen=True)
class ReportOptions:
    """Where a report goes, and what is in it."""

    out: str
    """A new folder."""
    split: str = "heldout"
    """Where examples are from; names are always measured on held-out rows."""
    texts: tuple[str, ...] = ()
    """Sentences to draw beside the published ones."""
    overwrite: bool = False
    """Replace the report that is there."""


def make_report(
    options: ReportOptions,
    runs: Sequence[LabelledRun],
    model: Model | None,
    published: Sequence[Published | None] = (),
) -> Path:
    """Measure the runs and write the page; the path of its index.html.

    A stopped pass over a long split goes on when the same report is made again.

    Args:
        options: where it goes, and what is in it.
        runs: see :func:`vasae_jax.report.labels.label_runs`.
        model: the language model of the runs' cache, to draw sentences with; None: no heatmaps.
        published: what was measured of each run already, so that it is not done again.

    Raises:
        UserError: the folder exists, a cache is damaged, or the model is not the caches'.
    """
    check_folder(options.out, options.overwrite)
    if model is not None:
        for labelled in runs:
            check_model(model, labelled.run.cache)
    reports, split = [], options.split
    for labelled, measured in itertools.zip_longest(runs, published):
        label = labelled.label
        print_once(f"{label.text}: measuring, and gathering examples from the {split} split")
        saved = Path(f"{options.out}.{label.key}.progress.npz")
        reports.append(make_run_report(labelled, split, saved, measured))
    return build_page(
        options.out,
        reports,
        match_features(reports),
        [] if model is None else _heatmaps(options, runs, reports, model),
        all_charts(reports),
        overwrite=options.overwrite,
    )


def all_charts(reports: Sequence[RunReport]) -> list[Chart]:
    """Every figure that the runs have data for, in order; a frontier needs two runs."""
    charts = [figures.hold_by_run(reports)]
    if len(reports) > 1:
        charts.append(figures.frontier(reports))
    charts += [figures.alignment(reports), figures.alignment_by_run(reports)]
    charts += [figures.coverage(reports), figures.density(reports), figures.by_position(reports)]
    if any(report.curves for report in reports):
        charts.append(figures.curves(reports))
    return charts


def _heatmaps(
    options: ReportOptions, runs: Sequence[LabelledRun], reports: Sequence[RunReport], model: Model
) -> list[Heatmap]:
    names = [cell_names(report.dictionary) for report in reports]
    texts = [Case(f"own-{number}", text) for number, text in enumerate(options.texts, start=1)]
    cases = [*texts, *PUBLISHED]
    heatmaps: list[Heatmap] = []
    with Progress(len(cases), unit="sentences") as progress:
        for case in cases:
            progress.update(len(heatmaps))
            heatmaps.append(make_heatmap(runs, names, model, case))
        progress.finish(len(heatmaps))
    return heatmaps
