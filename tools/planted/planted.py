#!/usr/bin/env python3
"""Does the pull find token features, or does it make them? Asked of a layer that is known.

    python tools/planted/planted.py --out out/planted

Plants a layer (``layer.py``), trains the default recipe and ``plain`` on its rows, names both by
evidence, and matches learned features with planted ones (``truth.py``), for three seeds of layer
and training. Every line of the table is a share over all seeds, and the lowest and highest of a
seed. Runs that are in ``--out`` are not trained again. One core takes about three minutes a seed.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from layer import Layer, Settings, plant, write_cache
from likeness import likeness
from truth import Learned, Tally, match, tally

from vasae_jax.config import Config, MeshConfig, RunConfig
from vasae_jax.config.presets import default, plain
from vasae_jax.distributed.environment import reuse_memory
from vasae_jax.evaluation.run import SPLIT, evaluate_run, run_names
from vasae_jax.names.evidence import ordered_evidence
from vasae_jax.names.firings import FiringObserver
from vasae_jax.training.loop import train
from vasae_jax.training.run import open_trained
from vasae_jax.utils.errors import UserError

RECIPES = {"default": default, "plain": plain}
STRICT = (0.8, 0.7)
"""Cosine and correlation of a stricter match, by which some figures are shown too."""
STRICT_LINES = (
    "recovered, with a token",
    "matched, with a token: named rightly",
    "matched, without a token: holds",
)


@dataclass(frozen=True)
class Size:
    """How large the SAE is, and how long it trains."""

    d_sae: int = 1024
    k: int = 8
    steps: int = 1000
    batch: int = 512


def main() -> None:
    """Measure every seed and recipe, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of caches and runs")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of layer and training")
    parser.add_argument("--json", action="store_true", help="print the counts instead of a table")
    parser.add_argument("--like", metavar="RUN", help="print how a run's features fire, no more")
    args = parser.parse_args()
    reuse_memory()
    if (args.out is None) == (args.like is None):
        parser.error("expected either --out or --like")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in RECIPES}
    try:
        if args.like:
            figures = likeness(open_trained(args.like))
            print("\n".join(f"{value:9.5f}  {name}" for name, value in figures.items()))
            return
        for seed in range(args.seeds):
            for name, measured in measure(args.out, Settings(), Size(), seed).items():
                found[name].append(measured)
    except UserError as error:
        parser.exit(2, f"planted: {error}\n")
    print(json.dumps(found, indent=1) if args.json else table(found))


def measure(out: Path, settings: Settings, size: Size, seed: int) -> dict[str, dict[str, Any]]:
    """What every recipe makes of the layer of one seed, by the recipe's name."""
    layer = plant(settings, seed)
    cache = out / f"cache-{seed}"
    if not (cache / "manifest.json").is_file():
        write_cache(layer, str(cache), settings)
    measured = {}
    for name in RECIPES:
        config = make_config(name, str(cache), size, seed, out / f"{name}-{seed}")
        train(config)
        measured[name] = hold_against(layer, config.run.out)
    return measured


def make_config(recipe: str, cache: str, size: Size, seed: int, out: Path) -> Config:
    """The settings of a run on one device: the recipe's, but for its size."""
    config = RECIPES[recipe](cache=cache, layer=0, batch=size.batch)
    run = RunConfig(
        out=str(out), steps=size.steps, seed=seed, log_every=200, checkpoint_every=size.steps
    )
    sae = replace(config.sae, d_sae=size.d_sae, k=size.k)
    return replace(config, sae=sae, mesh=MeshConfig(data=1), run=run)


def hold_against(layer: Layer, path: str) -> dict[str, Any]:
    """The counts of one run, by a usual match and a strict one, and what it reconstructs."""
    run = open_trained(path)
    names, observer = run_names(run), FiringObserver(run.cache, SPLIT)
    figures = evaluate_run(run, names, SPLIT, observer).unmasked
    tested = ordered_evidence(observer.firings(), names.layer, observer.row_tokens())
    learned = Learned(np.asarray(run.params["W_dec"]), observer, *tested)
    return {
        "variance explained": figures.variance_explained,
        "within tokens": figures.variance_explained_within_tokens,
        "counts": tally(layer, learned, match(layer, learned)),
        "strict": tally(layer, learned, match(layer, learned, *STRICT)),
    }


def table(found: Mapping[str, list[dict[str, Any]]]) -> str:
    """All recipes side by side as a Markdown table: the usual match, then the strict one."""
    recipes = list(found)
    lines = [["", *recipes], ["---"] * (len(recipes) + 1)]
    for key in ("variance explained", "within tokens"):
        lines.append([key, *(_mean([one[key] for one in found[name]]) for name in recipes)])
    shown = [("counts", "", tuple(found[recipes[0]][0]["counts"]))]
    for key, head, whats in (*shown, ("strict", "strict: ", STRICT_LINES)):
        tallies = {name: [one[key] for one in found[name]] for name in recipes}
        for what in whats:
            lines.append([head + what, *(_share(tallies[name], what) for name in recipes)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _share(tallies: list[Tally], what: str) -> str:
    """A share over all seeds, those counted, and the lowest and highest share of a seed."""
    hits, among = np.sum([one[what] for one in tallies], axis=0)
    shares = [one[what][0] / max(one[what][1], 1) for one in tallies]
    span = f"{min(shares):.1%} to {max(shares):.1%}"
    return f"{hits / max(among, 1):.1%} of {among:,} ({span})"


if __name__ == "__main__":
    main()
