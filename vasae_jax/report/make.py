"""From runs to the folder of a report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vasae_jax.evaluation.patching.model import Model, check_model
from vasae_jax.report.figures.all import all_charts
from vasae_jax.report.heatmap import PUBLISHED, Case, FirstNames, Grid, Row, make_grid
from vasae_jax.report.labels import Given
from vasae_jax.report.page.build import build_page, check_folder
from vasae_jax.report.panel import Panel, Published, make_panel, match_panels
from vasae_jax.training.log import print_once
from vasae_jax.utils.progress import Progress


@dataclass(frozen=True)
class Report:
    """What to make."""

    out: str
    """A new folder."""
    split: str = "heldout"
    """Where examples are from; names are always measured on held-out rows."""
    texts: tuple[str, ...] = ()
    """Sentences to draw beside the published ones."""
    overwrite: bool = False
    """Replace the report that is there."""


def make_report(
    wanted: Report,
    runs: Sequence[Given],
    model: Model | None,
    published: Sequence[Published | None] = (),
) -> Path:
    """Measure the runs and write the page; the path of its index.html.

    A stopped pass over a long split goes on when the same report is made again.

    Args:
        wanted: what to make.
        runs: what to make it of, see :func:`vasae_jax.report.labels.given_runs`.
        model: the language model of the runs' cache, to draw sentences with; None: no heatmaps.
        published: what was measured of each run already, so that it is not done again.

    Raises:
        UserError: the folder exists, a cache is damaged, or the model is not the caches'.
    """
    check_folder(wanted.out, wanted.overwrite)
    if model is not None:
        for one in runs:
            check_model(model, one.run.cache)
    known = [*published, *[None] * (len(runs) - len(published))]
    panels = [_panel(wanted, *both) for both in zip(runs, known, strict=True)]
    grids = [] if model is None else _grids(wanted, runs, panels, model)
    return build_page(
        wanted.out,
        panels,
        match_panels(panels),
        grids,
        all_charts(panels),
        overwrite=wanted.overwrite,
    )


def _panel(wanted: Report, one: Given, published: Published | None) -> Panel:
    print_once(f"{one.label.text}: measuring, and gathering examples from the {wanted.split} split")
    saved = Path(f"{wanted.out}.{one.label.key}.progress.npz")
    return make_panel(one, wanted.split, saved, published)


def _grids(
    wanted: Report, runs: Sequence[Given], panels: Sequence[Panel], model: Model
) -> list[Grid]:
    rows = []
    for one, panel in zip(runs, panels, strict=True):
        found = panel.dictionary
        names = FirstNames(found.layer_token_ids[:, 0], found.layer_relation, found.token_ids[:, 0])
        rows.append(Row(one.label, one.run, names))
    own = [Case(f"own-{number}", text) for number, text in enumerate(wanted.texts, start=1)]
    cases = [*own, *PUBLISHED]
    grids: list[Grid] = []
    with Progress(len(cases), unit="sentences") as progress:
        for case in cases:
            progress.update(len(grids))
            grids.append(make_grid(rows, model, case))
        progress.finish(len(grids))
    return grids
