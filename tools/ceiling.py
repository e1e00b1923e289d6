#!/usr/bin/env python3
"""What names hold beside what names could hold, on the text of a run's cache and on another.

Names are chosen by F1 on training rows (``vasae eval`` measures these), read off the weights,
chosen by what they hold on training rows, and chosen by the measured rows themselves, which bounds
what any names can hold.
"""

import argparse
import json
import sys
from typing import Any

import numpy as np

from vasae_jax.evaluation.run import RunNames, evaluate_run, open_anchors_of, run_names
from vasae_jax.names.by_layer import LIFT, LayerNames, RelationNames, better_relation
from vasae_jax.names.evidence import ordered_evidence
from vasae_jax.names.firings import (
    FiringObserver,
    Firings,
    RowTokens,
    activation_sums,
    share_of,
)
from vasae_jax.names.scores import name_scores
from vasae_jax.training.run import Run, open_trained
from vasae_jax.utils.ending import command_words, exit_code
from vasae_jax.utils.streams import note, protect_streams

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
BLOCK = 256
"""Features worked on at once: two arrays of BLOCK x V float64 are held."""


def main() -> int:
    """Parse the command line and measure; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="directory of a run of vasae train")
    parser.add_argument("--other", metavar="CACHE", help="a cache of the same model, other text")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of a table")
    protect_streams()
    args = parser.parse_args(command_words())
    return exit_code(lambda: print_table(args), "ceiling")


def print_table(args: argparse.Namespace) -> None:
    """Measure every text by every names, and print a table."""
    run = open_trained(args.run)
    runs = {"own": run}
    if args.other:
        open_anchors_of(args.other, run)
        runs["other"] = open_trained(args.run, args.other)
    rows = list(measure(runs))
    print("\n".join(map(json.dumps, rows)) if args.json else table(rows))


def measure(runs: dict[str, Run]) -> list[dict[str, Any]]:
    """A line for the held-out rows of each text and each way to name the features.

    ``runs`` is the same run with the cache of each text.
    """
    candidates: dict[str, LayerNames] = {}
    names_of = {text: run_names(run) for text, run in runs.items()}
    for text, run in runs.items():
        candidates[f"evidence of {text}"] = names_of[text].layer
        candidates[f"weights, anchors of {text}"] = run_names(run, by="weights").layer
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
    note(f"{run.cache.url}: {split}")
    observer = FiringObserver(run.cache, split)
    evaluation = evaluate_run(run, names, split, observer)
    return observer.firings(), observer.row_tokens(), evaluation.unmasked.variance_explained


def observed_names(firings: Firings, tokens: RowTokens, features: int, m: int = 10) -> LayerNames:
    """The tokens that held most of each feature's activation on the rows that were observed.

    What such names hold on other rows is as much as any rule without activations could promise.
    They are ordered as layer names are, by their share less ``LIFT`` times the token's share of the
    rows, and a feature takes the relation with more excess. ``expected`` are the shares.
    """
    size = int(max(tokens.token.max(initial=0), tokens.next_token.max(initial=0))) + 1
    shape = (features, size, min(m, size))
    return better_relation(
        _observed(firings, firings.token, tokens.token[tokens.observed], shape),
        _observed(firings, firings.next_token, tokens.next_token[tokens.observed], shape),
    )


def _observed(
    firings: Firings, token: np.ndarray, text: np.ndarray, shape: tuple[int, int, int]
) -> RelationNames:
    """The names of one relation.

    ``token`` [n] is that of each firing, ``text`` those of the rows; -1 is none. ``shape`` is
    F, V and m.
    """
    features, size, m = shape
    known = text[text >= 0]
    rate = np.bincount(known, minlength=size) / max(len(known), 1)
    total = activation_sums(firings, features)
    order = np.argsort(firings.feature, kind="stable")
    ends = np.searchsorted(firings.feature[order], np.arange(0, features + BLOCK, BLOCK))
    parts = []
    for number, first in enumerate(range(0, features, BLOCK)):
        chosen = order[ends[number] : ends[number + 1]]
        chosen = chosen[token[chosen] >= 0]
        count = min(BLOCK, features - first)
        key = (firings.feature[chosen] - first).astype(np.int64) * size + token[chosen]
        mass = np.bincount(key, firings.activation[chosen], count * size).reshape(count, size)
        parts.append(_largest(share_of(mass, total[first : first + count, None]), rate, m))
    ids, shares, excess = (np.concatenate(part) for part in zip(*parts, strict=True))
    return ids, shares, excess


def _largest(shares: np.ndarray, rate: np.ndarray, m: int) -> RelationNames:
    """Of ``shares`` [n, V], the m best names: ids and shares [n, m], and their excess [n]."""
    score = shares - LIFT * rate[None, :]
    best = np.argpartition(-score, m - 1, axis=1)[:, :m]
    order = np.argsort(-np.take_along_axis(score, best, axis=1), axis=1, kind="stable")
    ids = np.take_along_axis(best, order, axis=1)
    excess = np.maximum(np.take_along_axis(score, ids, axis=1), 0.0).sum(axis=1)
    return ids, np.take_along_axis(shares, ids, axis=1), excess


def figures(run: Run, firings: Firings, tokens: RowTokens, names: LayerNames) -> dict[str, float]:
    """What ``names`` hold over all firing features."""
    norms = np.linalg.norm(np.asarray(run.params["W_dec"], np.float64), axis=1)
    over_all = name_scores(firings, *ordered_evidence(firings, names, tokens), norms)[0]
    return {name: getattr(over_all, name) for name in COLUMNS}


def table(rows: list[dict[str, Any]]) -> str:
    """The lines as a Markdown table."""
    heads = list(rows[0])
    lines = [heads, ["---"] * len(heads)]
    lines += [[f"{x:.3f}" if isinstance(x, float) else x for x in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
