"""``vasae report``."""

import argparse
from collections.abc import Sequence

from vasae_jax.cli.options import MODEL_HELP, add_mesh, add_model, asked_mesh, need_matplotlib
from vasae_jax.utils.errors import UserError


def run(arguments: Sequence[str]) -> None:
    """Measure runs and write a page about their features."""
    given = _parser().parse_args(arguments)
    need_matplotlib()

    from vasae_jax.evaluation.patching.model import open_model
    from vasae_jax.report.labels import label_runs
    from vasae_jax.report.make import ReportOptions, make_report
    from vasae_jax.report.page.build import check_folder
    from vasae_jax.training.run import open_trained

    check_folder(given.out, given.overwrite)
    if given.text and not given.lm:
        raise UserError("--text is given without --lm; expected the model to run the text with")
    mesh = asked_mesh(given)
    runs = label_runs([(path, open_trained(path, mesh=mesh)) for path in given.runs])
    model = open_model(given.lm, given.backend, runs[0].run.cache) if given.lm else None
    options = ReportOptions(given.out, given.split, tuple(given.text), given.overwrite)
    print(make_report(options, runs, model))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae report",
        description="Write a page about the features of one or more runs: their names with what "
        "these hold, where they fire, figures, and heatmaps of sentences. It is a folder that "
        "opens from a disk and loads nothing from the network. A name says when a feature fires: "
        "it is not an explanation, not a causal claim, not one-to-one.",
    )
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="directories of runs: layers, or a sweep")
    add("--out", required=True, help="the folder; index.html in it opens in a browser")
    add_model(parser, MODEL_HELP)
    add(
        "--text",
        action="append",
        default=[],
        help="a sentence to draw beside the published ones; may be given again",
    )
    add(
        "--split",
        choices=("heldout", "train"),
        default="heldout",
        help="where examples are from (default: heldout); names are measured on heldout always",
    )
    add_mesh(parser)
    add("--overwrite", action="store_true", help="replace the report that is in the folder")
    return parser
