#!/usr/bin/env python3
"""What names hold beside what names could hold, on a run's own text and on another.

Names come from weights (``vasae eval`` measures them), from an observer who sees activations on
other rows, and from the measured rows themselves, which no rule can know.
"""

import argparse
import json
import sys
from typing import Any

import numpy as np

from vasae_jax.evaluation.run import RunNames, evaluate_run, open_anchors_of, run_names
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.evidence import evidence
from vasae_jax.names.firings import ROWS, Firings, Watch, Watched
from vasae_jax.names.scores import held, observed_names
from vasae_jax.training.run import Run, open_trained
from vasae_jax.utils.errors import UserError

SHOWN = ("hold1", "hold10", "shuffled10", "mass", "holds", "ceiling1", "ceiling10", "ceiling_mass")
"""Figures of a line."""


def main() -> None:
    """Measure every text by every names, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="directory of a run of vasae train")
    parser.add_argument("--other", metavar="CACHE", help="a cache of the same model, other text")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    given = parser.parse_args()
    try:
        own = open_trained(given.run)
        texts = {"own": own}
        if given.other:
            open_anchors_of(given.other, own)
            texts["other"] = open_trained(given.run, given.other)
        rows = list(measure(texts))
    except UserError as error:
        parser.exit(2, f"ceiling: {error}\n")
    print("\n".join(map(json.dumps, rows)) if given.json else table(rows))


def measure(texts: dict[str, Run]) -> list[dict[str, Any]]:
    """A line for each held-out text and each way that its features may be named."""
    named: dict[str, LayerNames] = {}
    own = {text: run_names(run) for text, run in texts.items()}
    for text, run in texts.items():
        named[f"weights, anchors of {text}"] = own[text].layer
        found, watched, _ = watch(run, own[text], "train")
        named[f"an observer of {text}"] = observed_names(found, watched, len(run.params["W_enc"]))
    lines = []
    for text, run in texts.items():
        found, watched, explained = watch(run, own[text], "heldout")
        for by, names in named.items():
            lines.append({"measured on": text, "names by": by, "VE": explained})
            lines[-1] |= figures(run, found, watched, names)
    return lines


def watch(run: Run, names: RunNames, split: str) -> tuple[Firings, Watched, float]:
    """What fires over a split of the run's cache, and the variance explained there."""
    print(f"{run.cache.url}: {split}", file=sys.stderr)
    seen = Watch(run.cache, split, ROWS)
    measured = evaluate_run(run, names, split, seen)
    return seen.firings(), seen.watched(), measured.unmasked.variance_explained


def figures(run: Run, found: Firings, watched: Watched, names: LayerNames) -> dict[str, float]:
    """What ``names`` hold over all firing features."""
    norms = np.linalg.norm(np.asarray(run.params["W_dec"], np.float64), axis=1)
    over_all = held(found, names, evidence(found, names, watched), norms)[0]
    return {name: getattr(over_all, name) for name in SHOWN}


def table(rows: list[dict[str, Any]]) -> str:
    """The lines as a Markdown table."""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads)]
    lines += [[f"{x:.3f}" if isinstance(x, float) else x for x in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
