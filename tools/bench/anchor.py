#!/usr/bin/env python3
"""What cached nearest anchors cost in truth: compare them with a full search, on real rows.

    python tools/bench/anchor.py --cache CACHE --layer 9              # 8192 features, both recipes
    python tools/bench/anchor.py --cache CACHE --layer 9 --json

Trains the published and the default recipe and searches every feature's true nearest anchor
after each of the first steps, when directions turn fastest, and then at regular evaluations.
``--json`` prints one object, keyed by recipe:

    step        steps taken, one for each evaluation
    mismatch    share of features whose cached id is not the true nearest one
    shortfall   mean cosine lost: the true nearest anchor's cosine minus the cached one's
    uncertified share of features that the certificate does not vouch for
    step_s      median seconds of a step
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from vasae_jax.anchor.certificate import AnchorState, gaps, staleness
from vasae_jax.cache import Cache
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig
from vasae_jax.config.presets import published
from vasae_jax.distributed.environment import reuse_memory
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.sae import choose_execution
from vasae_jax.training.inputs import init_run, make_stream
from vasae_jax.training.loss import Batch
from vasae_jax.training.state import pulled_rows
from vasae_jax.training.step import make_steps

MEASURES = ("mismatch", "shortfall", "uncertified")


def main() -> None:
    """Measure both recipes and print them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", required=True, help="activation cache")
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--features", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=1024, help="rows of a batch")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--every-step", type=int, default=50, help="evaluate each step up to here")
    parser.add_argument("--then", type=int, default=50, help="steps between evaluations after it")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args()
    reuse_memory()
    found = {name: measure(config, args) for name, config in recipes(args).items()}
    if args.json:
        print(json.dumps(found))
        return
    for name, record in found.items():
        show(name, record)


def recipes(args: argparse.Namespace) -> dict[str, Config]:
    """The published and the default recipe at the same shape."""
    data = {"cache": args.cache, "layer": args.layer, "batch": args.rows}
    run = RunConfig(out="unused", steps=args.steps)
    mesh = MeshConfig(data=1, model=1)
    return {
        name: replace(
            config, sae=replace(config.sae, d_sae=args.features, k=32), run=run, mesh=mesh
        )
        for name, config in (
            ("published", published(**data)),
            ("default", Config(data=DataConfig(**data))),
        )
    }


def measure(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """One recipe's record."""
    cache = Cache.open(args.cache)
    mesh = make_mesh(config.mesh)
    context, state = init_run(config, cache, mesh, args.features)
    execution = choose_execution("auto", jax.default_backend())
    steps = make_steps(config, mesh, state, execution)
    record: dict[str, Any] = {name: [] for name in ("step", *MEASURES)}
    seconds = []
    with make_stream([config], cache).prefetch(0) as batches:
        for (_, (host,)), number in zip(batches, range(1, args.steps + 1), strict=False):
            batch = Batch(jnp.asarray(host.x), jnp.asarray(host.keep))
            began = time.perf_counter()
            state, metrics = steps(number)(state, batch, context)
            jax.block_until_ready((state, metrics))
            seconds.append(time.perf_counter() - began)
            if number <= args.every_step or number % args.then == 0:
                record["step"].append(number)
                found = compare(
                    pulled_rows(state.params, config.anchor), context.anchors, state.anchor
                )
                for name, value in zip(MEASURES, found, strict=True):
                    record[name].append(float(value))
    return {**record, "step_s": statistics.median(seconds)}


@jax.jit
def compare(
    rows: jax.Array, anchors: jax.Array, state: AnchorState
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mismatch, shortfall and uncertified share of ``rows`` that are pulled [F, d]."""
    return *staleness(rows, anchors, state), jnp.mean(gaps(rows, state)[0] > 0)


def show(name: str, record: dict[str, Any]) -> None:
    """A table of one recipe."""
    print(f"{name} (median step {record['step_s']:.3f} s)")
    print(f"{'step':>6}{'mismatch':>10}{'shortfall':>11}{'uncertified':>13}")
    columns = (record[key] for key in ("step", *MEASURES))
    for step, mismatch, short, loose in zip(*columns, strict=True):
        print(f"{step:>6}{mismatch:>10.2%}{short:>11.1e}{loose:>13.2%}")


if __name__ == "__main__":
    main()
