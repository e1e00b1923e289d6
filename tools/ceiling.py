#!/usr/bin/env python3
"""What names hold beside what names could hold, on the text of a run's cache and on another.

Names are read off the weights (``vasae eval`` measures these), chosen by the activations on the
training rows, and chosen by the measured rows themselves, which bounds what any names can hold.
"""

import argparse
import json
import sys
from typing import Any

import numpy as np

from vasae_jax.evaluation.run import RunNames, evaluate_run, open_anchors_of, run_names
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.evidence import evidence
from vasae_jax.names.firings import FiringObserver, Firings, RowTokens
from vasae_jax.names.scores import name_scores, observed_names
from vasae_jax.training.run import Run, open_trained
from vasae_jax.utils.errors import UserError

COLUMNS = (
    "hold1",
    "hold10",
    "shuffled10",
    "mass10",
    "holds",
    "ceiling1",
    "ceiling10",
    "ceiling_mass10",
)
"""Figures of a line."""


def main() -> None:
    """Measure every text by every names, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="directory of a run of vasae train")
    parser.add_argument("--other", metavar="CACHE", help="a cache of the same model, other text")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    args = parser.parse_args()
    try:
        run = open_trained(args.run)
        runs = {"own": run}
        if args.other:
            open_anchors_of(args.other, run)
            runs["other"] = open_trained(args.run, args.other)
        rows = list(measure(runs))
    except UserError as error:
        parser.exit(2, f"ceiling: {error}\n")
    print("\n".join(map(json.dumps, rows)) if args.json else table(rows))


def measure(runs: dict[str, Run]) -> list[dict[str, Any]]:
    """A line for the held-out rows of each text and each way to name the features.

    ``runs`` is the same run with the cache of each text.
    """
    candidates: dict[str, LayerNames] = {}
    names_of = {text: run_names(run) for text, run in runs.items()}
    for text, run in runs.items():
        candidates[f"weights, anchors of {text}"] = names_of[text].layer
        firings, tokens, _ = observe(run, names_of[text], "train")
        observed = observed_names(firings, tokens, len(run.params["W_enc"]))
        candidates[f"an observer of {text}"] = observed
    lines = []
    for text, run in runs.items():
        firings, tokens, explained = observe(run, names_of[text], "heldout")
        for by, names in candidates.items():
            lines.append({"measured on": text, "names by": by, "VE": explained})
            lines[-1] |= figures(run, firings, tokens, names)
    return lines


def observe(run: Run, names: RunNames, split: str) -> tuple[Firings, RowTokens, float]:
    """The firings over a split of the run's cache, and the variance explained there."""
    print(f"{run.cache.url}: {split}", file=sys.stderr)
    observer = FiringObserver(run.cache, split)
    evaluation = evaluate_run(run, names, split, observer)
    return observer.firings(), observer.row_tokens(), evaluation.unmasked.variance_explained


def figures(run: Run, firings: Firings, tokens: RowTokens, names: LayerNames) -> dict[str, float]:
    """What ``names`` hold over all firing features."""
    norms = np.linalg.norm(np.asarray(run.params["W_dec"], np.float64), axis=1)
    over_all = name_scores(firings, names, evidence(firings, names, tokens), norms)[0]
    return {name: getattr(over_all, name) for name in COLUMNS}


def table(rows: list[dict[str, Any]]) -> str:
    """The lines as a Markdown table."""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads)]
    lines += [[f"{x:.3f}" if isinstance(x, float) else x for x in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
