#!/usr/bin/env python3
"""What the pull costs a whole run: every step of it beside the plain run's, on the same rows.

    python tools/bench/whole.py --cache out/quickstart/cache --layer 15
    python tools/bench/whole.py --cache CACHE --layer 9 --features 8192 --steps 800 --json

The runs take turns, a step each, so that a machine whose speed drifts favours none; the first step
of each program, which compiles it, is left out on both sides. ``soft`` is the default recipe, whose
pull sets in late; ``always`` pulls from the first step. ``--json`` prints one object:

    device, jax, rows, d_sae, steps   what was run
    soft_over_plain, always_over_plain    the sums of all steps, the one over the other
    parts       the same ratio for each tenth of the run
    uncertified {run: share of features left uncertified, mean over the steps that pull}
    mismatch, shortfall   {run: cached nearest anchors against a full search, after the last step}
"""

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from machine import describe

from vasae_jax.anchor.certificate import staleness
from vasae_jax.cache import Cache
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig
from vasae_jax.config.presets import default, plain
from vasae_jax.distributed.environment import reuse_memory
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.sae import choose_execution
from vasae_jax.training.autotune import autotuned
from vasae_jax.training.hparams import first_pulled_step
from vasae_jax.training.inputs import init_run, make_stream
from vasae_jax.training.loss import Batch
from vasae_jax.training.state import pulled_rows
from vasae_jax.training.step import make_steps

PARTS = 10


class Runner:
    """One run, a step at a time."""

    def __init__(self, config: Config, cache: Cache) -> None:
        mesh = make_mesh(config.mesh)
        self.config = autotuned(config, mesh, (config.sae.d_sae, cache.manifest.d_model))
        self.context, self.state = init_run(self.config, cache, mesh, config.sae.d_sae)
        execution = choose_execution(config.sae.execution, jax.default_backend())
        state = self.state
        self._steps = make_steps(self.config, mesh, state, execution)
        self.uncertified: list[jax.Array] = []

    def run(self, number: int, batch: Batch) -> float:
        """Seconds of step ``number``."""
        began = time.perf_counter()
        self.state, metrics = self._steps(number)(self.state, batch, self.context)
        jax.block_until_ready((self.state, metrics))
        self.uncertified.append(metrics.uncertified)
        return time.perf_counter() - began

    def staleness(self) -> tuple[float, float]:
        """Mismatch and shortfall of the nearest anchors now."""
        rows = pulled_rows(self.state.params, self.config.anchor)
        found = jax.jit(staleness)(rows, self.context.anchors, self.state.anchor)
        return float(found.mismatch), float(found.shortfall)


def settings(args: argparse.Namespace) -> dict[str, Config]:
    """The runs by name."""
    data = DataConfig(cache=args.cache, layer=args.layer, batch=args.rows)

    def of(recipe: Config, **anchor: Any) -> Config:
        return replace(
            recipe,
            data=data,
            sae=replace(recipe.sae, d_sae=args.features),
            anchor=replace(recipe.anchor, **anchor),
            mesh=MeshConfig(data=1, model=1),
            run=RunConfig(out="unused", steps=args.steps),
        )

    return {
        "plain": of(plain()),
        "soft": of(default()),
        "always": of(default(), start=0.0, warmup=0.0),
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """What ``--json`` prints but for the machine."""
    cache = Cache.open(args.cache)
    runners = {name: Runner(config, cache) for name, config in settings(args).items()}
    first = {name: {1, first_pulled_step(runner.config)} for name, runner in runners.items()}
    compiled = sorted(set().union(*first.values()))
    times: dict[str, list[float]] = {name: [] for name in runners}
    with make_stream([runners["plain"].config], cache).prefetch(0) as batches:
        for number in range(1, args.steps + 1):
            _, (host,) = next(batches)
            batch = Batch(jnp.asarray(host.x), jnp.asarray(host.keep))
            for name, runner in runners.items():
                seconds = runner.run(number, batch)
                times[name].append(np.nan if number in compiled else seconds)
    sums = {name: float(np.nansum(values)) for name, values in times.items()}
    parts = {
        name: [float(np.nansum(part)) for part in np.array_split(values, PARTS)]
        for name, values in times.items()
    }
    pulling = {name: runner for name, runner in runners.items() if name != "plain"}
    stale = {name: runner.staleness() for name, runner in pulling.items()}
    ratios = {f"{name}_over_plain": sums[name] / sums["plain"] for name in pulling}
    return ratios | {
        "parts": {
            name: [own / other for own, other in zip(parts[name], parts["plain"], strict=True)]
            for name in pulling
        },
        "seconds": sums,
        "uncertified": {
            name: float(np.mean(runner.uncertified[first_pulled_step(runner.config) - 1 :]))
            for name, runner in pulling.items()
        },
        "mismatch": {name: found[0] for name, found in stale.items()},
        "shortfall": {name: found[1] for name, found in stale.items()},
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", required=True, help="activation cache")
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=1024, help="rows of a batch")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args()
    reuse_memory()
    shape = {"rows": args.rows, "d_sae": args.features, "steps": args.steps}
    found = {"bench": "whole", **describe(), **shape, **measure(args)}
    if args.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<20}{value:.4g}" if isinstance(value, float) else f"{name:<20}{value}")


if __name__ == "__main__":
    main()
