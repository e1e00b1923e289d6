"""Measure a run on documents that it was not trained on.

The main figures are over the features that fire. docs/evaluation.md defines every figure. A name is
a label, not an explanation.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vasae_jax.cli.options import (
    VerbParser,
    add_mesh,
    add_model,
    add_names_by,
    add_split,
    at_least,
    requested_mesh,
)
from vasae_jax.utils.files import refuse_existing, write_json


def run(arguments: Sequence[str]) -> None:
    """Measure a run on a split; print tables and write the figures as JSON."""
    args = _parser().parse_args(arguments)

    from vasae_jax.evaluation.bootstrap import DocumentSums
    from vasae_jax.evaluation.ladder import (
        MeasuredRun,
        measure_baseline,
        measure_ladder,
        open_baseline,
    )
    from vasae_jax.evaluation.log import log_evaluation
    from vasae_jax.evaluation.names import measure_names, open_other_run
    from vasae_jax.evaluation.patching.measure import measure_lm
    from vasae_jax.evaluation.patching.model import open_model
    from vasae_jax.evaluation.run import evaluate_run, open_anchors_of, run_names
    from vasae_jax.evaluation.scores.measure import check_split, measure_scores
    from vasae_jax.names.firings import FiringObserver
    from vasae_jax.training.run import open_trained

    trained = open_trained(args.run, args.cache, requested_mesh(args))
    out = Path(args.out or Path(args.run) / _file_name(args))
    refuse_existing(out, overwrite=args.overwrite)
    if args.scores:
        check_split(args.split)
    anchors_of = open_anchors_of(args.anchors, trained) if args.anchors else None
    other = open_other_run(args.against, trained) if args.against else None
    baseline = open_baseline(args.ladder, trained, args.run, args.split) if args.ladder else None
    model = open_model(args.lm, args.backend, trained.cache) if args.lm else None

    names = run_names(trained, anchors_of, args.names_by)
    watch, documents = FiringObserver(trained.cache, args.split), None
    if baseline is not None:
        documents = DocumentSums.of(trained.cache, args.split)
    evaluation = evaluate_run(trained, names, args.split, watch, documents)
    name_measures = measure_names(
        trained, names, watch, args.split, model=model, other=other, against=args.against
    )
    result, tables = evaluation.to_json(), [evaluation.table(), name_measures.table()]
    result["names"] = name_measures.to_json()
    patched = measure_lm(trained, model, args.split, args.lm_windows) if model else None
    if patched is not None:
        result["lm"] = patched.to_json()
        tables.append(patched.table())
    if baseline is not None and documents is not None:
        this = MeasuredRun(trained, args.run, names, watch, documents, patched)
        below = measure_baseline(
            baseline, args.ladder, anchors_of, args.names_by, model, args.lm_windows
        )
        ladder = measure_ladder(this, below, anchors_of or trained.cache)
        result["ladder"] = ladder.to_json()
        tables.append(ladder.table())
    if args.scores:
        scores = measure_scores(
            trained, names, args.names_by, watch, Path(args.run), anchors_of=anchors_of, model=model
        )
        result["scores"] = scores.to_json()
        tables.append(scores.table())
    tables.append(evaluation.alignment_table())
    write_json(out, result)
    if not (args.cache or args.anchors):  # the boards' figures are all of the run's own cache
        log_evaluation(trained, Path(args.run), result, names, watch)
    print("\n\n".join(tables))
    print(f"\nwritten to {out}")


def _file_name(args: argparse.Namespace) -> str:
    """The default name of the file, which says what is measured beside the run by itself."""
    options = ("cache", "anchors", "lm", "against", "ladder", "scores")
    more = [name for name in options if vars(args)[name]]
    by = [args.names_by] if args.names_by != "evidence" else []
    return "-".join(["eval", args.split, *more, *by]) + ".json"


def _parser() -> VerbParser:
    parser = VerbParser(prog="vasae eval", description=__doc__)
    add = parser.add_argument
    add("run", help="directory of a run of vasae train")
    add("--cache", help="another cache of the same model (default: the run's own)")
    add(
        "--anchors",
        metavar="CACHE",
        help="take names from the layer anchors and training rows of this cache, to test whether "
        "names from one text hold on another (default: the cache that is measured)",
    )
    add_split(parser, "split to measure")
    add_model(
        parser,
        "the cache's language model (directory, .gguf file or Hugging Face name); adds measures of "
        "the patched model: cross-entropy recovered, KL, logit lens, effects on named tokens",
    )
    windows = "number of windows to patch, evenly spaced"
    add("--lm-windows", type=at_least(1), default=64, metavar="N", help=windows)
    other = "another run on the same layer; compares the names of matching features"
    add("--against", metavar="RUN2", help=other)
    ladder = (
        "a plain run from a random start on the same data; adds a table of what names by "
        "embedding, of that run, of this run and by an observer of training rows hold"
    )
    add("--ladder", metavar="BASELINE", help=ladder)
    scores = (
        "adds scores of names that others use: input score and a matching game (seconds), and with "
        "--lm the output score, which runs the model about 600 times on 256 tokens (minutes); "
        "stopped there, it goes on from RUN/steering-ID.jsonl"
    )
    add("--scores", action="store_true", help=scores)
    add_names_by(parser)
    add_mesh(parser)
    add(
        "--out",
        help="JSON file (default: RUN/eval-SPLIT.json, or a longer name with other options)",
    )
    add("--overwrite", action="store_true", help="replace that file")
    return parser
