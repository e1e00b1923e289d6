"""Write a page about the features of one or more runs.

It has their names and how well these hold, examples of where they fire, figures, and heatmaps of
sentences. The page opens in a browser from disk and loads nothing from the network. A name says
when a feature fires: it is not an explanation, not a causal claim, not one-to-one.
"""

from collections.abc import Sequence

from vasae_jax.cli.options import (
    MODEL_HELP,
    VerbParser,
    add_mesh,
    add_model,
    add_split,
    requested_mesh,
    require_matplotlib,
)
from vasae_jax.utils.errors import UserError


def run(arguments: Sequence[str]) -> None:
    """Measure runs and write a report of their features, to open in a browser."""
    args = _parser().parse_args(arguments)
    require_matplotlib()

    from vasae_jax.evaluation.patching.model import open_model
    from vasae_jax.report.labels import label_runs
    from vasae_jax.report.make import ReportOptions, make_report
    from vasae_jax.report.page.build import check_folder
    from vasae_jax.training.run import open_trained

    check_folder(args.out, args.overwrite)
    if args.text and not args.lm:
        raise UserError("--text is given without --lm; expected the model to run the text with")
    mesh = requested_mesh(args)
    runs = label_runs([(path, open_trained(path, mesh=mesh)) for path in args.runs])
    model = open_model(args.lm, args.backend, runs[0].run.cache) if args.lm else None
    options = ReportOptions(args.out, args.split, tuple(args.text), args.overwrite)
    print(make_report(options, runs, model))


def _parser() -> VerbParser:
    parser = VerbParser(prog="vasae report", description=__doc__)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="directories of runs")
    add("--out", required=True, help="folder to write; open index.html in a browser")
    add_model(parser, MODEL_HELP)
    more = "a sentence for another heatmap; may be repeated"
    add("--text", action="append", default=[], help=more)
    add_split(parser, "split that examples are taken from")
    add_mesh(parser)
    add("--overwrite", action="store_true", help="replace the report in the folder")
    return parser
