"""Draw the most active feature at each token of a sentence.

There is a line for each run and a column for each token, and each cell has that feature's name: the
one that fits the token, or else its first tested one. A name says when a feature fires: it is not
an explanation and not a causal claim.
"""

from collections.abc import Sequence
from pathlib import Path

from vasae_jax.cli.options import (
    MODEL_HELP,
    VerbParser,
    add_mesh,
    add_model,
    requested_mesh,
    require_matplotlib,
)
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import refuse_existing


def run(arguments: Sequence[str]) -> None:
    """Draw the names of the most active features along one sentence."""
    args = _parser().parse_args(arguments)
    out = Path(args.out)
    if out.suffix not in (".png", ".svg"):
        raise UserError(f"--out is {out}; expected a name that ends in .png or .svg")
    refuse_existing(out, overwrite=args.overwrite)
    require_matplotlib()

    from vasae_jax.evaluation.patching.model import check_model, open_model
    from vasae_jax.evaluation.publish import publish
    from vasae_jax.report.figures.heatmap import heatmap_figure
    from vasae_jax.report.heatmap import Case, case_of, cell_names, make_heatmap
    from vasae_jax.report.labels import label_runs
    from vasae_jax.training.run import open_trained

    case = case_of(args.case) if args.case else Case("own", args.text)
    mesh = requested_mesh(args)
    runs = label_runs([(path, open_trained(path, mesh=mesh)) for path in args.runs])
    model = open_model(args.lm, args.backend, runs[0].run.cache)
    for labelled in runs:
        check_model(model, labelled.run.cache)
    names = [cell_names(publish(labelled.run)[0]) for labelled in runs]
    grid = make_heatmap(runs, names, model, case)
    print(heatmap_figure(grid, args.mode, out, args.names))


def _parser() -> VerbParser:
    parser = VerbParser(prog="vasae heatmap", description=__doc__)
    add = parser.add_argument
    add("--runs", nargs="+", required=True, metavar="RUN", help="directories of runs")
    sentence = parser.add_mutually_exclusive_group(required=True)
    sentence.add_argument("--text", help="the sentence")
    sentence.add_argument("--case", help="a sentence of the paper, such as place_street")
    add_model(parser, MODEL_HELP, required=True)
    mode = "centred: subtract each feature's mean over the sentence, as in the paper; raw: do not"
    add("--mode", choices=("centred", "raw"), default="centred", help=mode)
    names = "names to show: by layer, or by embedding as in the paper"
    add("--names", choices=("layer", "embedding"), default="layer", help=names)
    add("--out", required=True, help="a .png or .svg file")
    add_mesh(parser)
    add("--overwrite", action="store_true", help="replace that file")
    return parser
