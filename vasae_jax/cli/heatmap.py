"""``vasae heatmap``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vasae_jax.cli.options import MODEL_HELP, add_mesh, add_model, asked_mesh, need_matplotlib
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import refuse_existing

ENDINGS = (".png", ".svg")


def run(arguments: Sequence[str]) -> None:
    """Draw the names most active along one sentence."""
    given = _parser().parse_args(arguments)
    out = Path(given.out)
    if out.suffix not in ENDINGS:
        raise UserError(f"--out is {out}; expected a name that ends in .png or .svg")
    refuse_existing(out, overwrite=given.overwrite)
    need_matplotlib()

    from vasae_jax.evaluation.patching.model import check_model, open_model
    from vasae_jax.report.figures.heatmap import heatmap_figure
    from vasae_jax.report.heatmap import Case, case_of, heatmap_rows, make_heatmap
    from vasae_jax.report.labels import label_runs
    from vasae_jax.training.run import open_trained

    case = case_of(given.case) if given.case else Case("own", given.text)
    mesh = asked_mesh(given)
    runs = label_runs([(path, open_trained(path, mesh=mesh)) for path in given.runs])
    model = open_model(given.lm, given.backend, runs[0].run.cache)
    for one in runs:
        check_model(model, one.run.cache)
    grid = make_heatmap(heatmap_rows(runs), model, case)
    print(heatmap_figure(grid, given.mode, out, given.names))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae heatmap",
        description="Draw which feature is most active at each token of a sentence: a line for "
        "each run, a column for each token, in each cell the first layer name of that feature. "
        "A name says when a feature fires: it is not an explanation and not a causal claim.",
    )
    add = parser.add_argument
    add("--runs", nargs="+", required=True, metavar="RUN", help="directories of runs")
    sentence = parser.add_mutually_exclusive_group(required=True)
    sentence.add_argument("--text", help="the sentence")
    sentence.add_argument(
        "--case", help="a sentence of the published case studies, such as place_street"
    )
    add_model(parser, MODEL_HELP, required=True)
    add(
        "--mode",
        choices=("centred", "raw"),
        default="centred",
        help="centred: each feature's mean over the sentence is subtracted, as in the paper; "
        "raw: it is not (default: centred)",
    )
    add(
        "--names",
        choices=("layer", "embedding"),
        default="layer",
        help="names in the cells: layer names, or by embedding as in the paper (default: layer)",
    )
    add("--out", required=True, help="a .png or .svg file")
    add_mesh(parser)
    add("--overwrite", action="store_true", help="replace that file")
    return parser
