"""``vasae eval``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vasae_jax.cli.options import add_mesh, add_model, asked_mesh
from vasae_jax.utils.files import refuse_existing, write_json


def run(arguments: Sequence[str]) -> None:
    """Print every measure of a run over a split, and write them as JSON."""
    given = _parser().parse_args(arguments)

    from vasae_jax.evaluation.log import log_evaluation
    from vasae_jax.evaluation.names import measure_names, open_other_run
    from vasae_jax.evaluation.patching.measure import measure_lm
    from vasae_jax.evaluation.patching.model import open_model
    from vasae_jax.evaluation.run import evaluate_run, open_anchors_of, run_names
    from vasae_jax.names.firings import FiringObserver
    from vasae_jax.training.run import open_trained

    trained = open_trained(given.run, given.cache, asked_mesh(given))
    out = Path(given.out or Path(given.run) / f"eval-{given.split}.json")
    refuse_existing(out, overwrite=given.overwrite)
    anchors_of = open_anchors_of(given.anchors, trained) if given.anchors else None
    other = open_other_run(given.against, trained) if given.against else None
    model = open_model(given.lm, given.backend, trained.cache) if given.lm else None

    names, watch = run_names(trained, anchors_of), FiringObserver(trained.cache, given.split)
    evaluation = evaluate_run(trained, names, given.split, watch)
    worth = measure_names(
        trained, names, watch, given.split, model=model, other=other, against=given.against
    )
    result, tables = evaluation.to_json(), [evaluation.table(), worth.table()]
    result["names"] = worth.to_json()
    if model is not None:
        patched = measure_lm(trained, model, given.split, given.lm_windows)
        result["lm"] = patched.to_json()
        tables.append(patched.table())
    write_json(out, result)
    if not (given.cache or given.anchors):  # the boards' figures are all of the run's own cache
        log_evaluation(trained, Path(given.run), result, names, watch)
    print("\n\n".join(tables))
    print(f"\nwritten to {out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae eval",
        description="Measure a run on documents that it was not trained on. The main figures are "
        "over the features that fire. docs/evaluation.md defines every figure. A name is a "
        "geometric label, not an explanation.",
    )
    add = parser.add_argument
    add("run", help="directory of a run of vasae train")
    add("--cache", help="another cache of the same model (default: the run's own)")
    add(
        "--anchors",
        metavar="CACHE",
        help="the cache whose layer anchors name the features, to see whether names that one text "
        "gives hold on another (default: the cache that is measured)",
    )
    add(
        "--split",
        choices=("heldout", "train"),
        default="heldout",
        help="split to measure (default: heldout)",
    )
    add_model(
        parser,
        "the cache's language model (directory, .gguf file or Hugging Face name). Patches its "
        "layer: cross-entropy recovered, KL, logit lens, and the effect of features on their names",
    )
    add(
        "--lm-windows",
        type=window_count,
        default=64,
        metavar="N",
        help="windows to patch, evenly spaced (default: 64)",
    )
    add(
        "--against",
        metavar="RUN2",
        help="another run on the same layer, to compare the names of matching features",
    )
    add_mesh(parser)
    add("--out", help="JSON file (default: RUN/eval-SPLIT.json)")
    add("--overwrite", action="store_true", help="replace that file")
    return parser


def window_count(text: str) -> int:
    """A number from 1; argparse names this function when the text is none."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value
