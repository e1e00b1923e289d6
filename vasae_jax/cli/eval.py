"""``vasae eval``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vasae_jax.files import refuse_existing, write_json


def run(arguments: Sequence[str]) -> None:
    """Print every measure of a run over a split, and write them as JSON."""
    parser = argparse.ArgumentParser(
        prog="vasae eval",
        description="Measure a run on documents that it was not trained on. The figures that lead "
        "are over the features that fire.",
    )
    parser.add_argument("run", help="directory of a run of vasae train")
    parser.add_argument("--cache", help="another cache of the same model (default: the run's own)")
    parser.add_argument(
        "--split", choices=("heldout", "train"), default="heldout", help="rows to measure over"
    )
    parser.add_argument("--out", help="JSON file (default: RUN/eval-SPLIT.json)")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    given = parser.parse_args(arguments)

    from vasae_jax.publish import evaluate_run, open_trained, run_names

    trained = open_trained(given.run, given.cache)
    out = Path(given.out or Path(given.run) / f"eval-{given.split}.json")
    refuse_existing(out, given.overwrite)
    evaluation = evaluate_run(trained, run_names(trained), given.split)
    write_json(out, evaluation.to_json())
    print(evaluation.table())
    print(f"\nwritten to {out}")
