#!/usr/bin/env python3
"""Where a whole run spends its time: the quickstart's stages, each beside its floor.

    python tools/bench/run.py --out /tmp/bench            # six minutes or so on two CPU cores
    python tools/bench/run.py --out /tmp/bench --json

Makes what ``vasae quickstart`` makes, but for figure and files, in the empty directory ``--out``.
A stage's floor is what its products would take at the rate of a bare product of the same shape and
type, measured after the run; a training step's is that of tools/bench/step.py: the encoder's
product, and seven streams of both matrices. What has no product has no floor. Compilation is part
of the stages and shown apart; ``JAX_COMPILATION_CACHE_DIR`` set to a directory of an earlier run
shows a start that finds its programs there. ``--json`` prints one object:

    device, jax, rows, heldout_rows, d_in, d_sae, vocab, steps    what was run
    stages      [{stage, seconds, compile_s, floor_s, ratio}], floor_s and ratio null without one
    total_s     of all stages
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import jax
from extract import WINDOWS, row_flops
from machine import copy, describe, in_turns, product, rate

from vasae_jax.anchor.layer_anchors import layer_anchors
from vasae_jax.anchor.token_means import LayerAnchors
from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.config.presets import quickstart as preset
from vasae_jax.distributed.environment import reuse_memory
from vasae_jax.evaluation.publish import name_run
from vasae_jax.evaluation.run import SPLIT, evaluate_run, run_names
from vasae_jax.extract import Settings, extract, read_documents
from vasae_jax.lm import LM, load_lm
from vasae_jax.lm.lm import faster_dtype
from vasae_jax.lm.smollm2 import fetch_smollm2
from vasae_jax.names.firings import FiringObserver
from vasae_jax.quickstart import CHUNK_ROWS, CONTEXT, TEXT, default_layers
from vasae_jax.training.loop import train
from vasae_jax.training.run import open_trained
from vasae_jax.training.state import layer_targets

T = TypeVar("T")
COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclass
class Clock:
    """Seconds of each stage, and of what was compiled in it."""

    stages: dict[str, tuple[float, float]] = field(default_factory=dict)
    compiled: float = 0.0

    def __post_init__(self) -> None:
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def stage(self, name: str, work: Callable[[], T]) -> T:
        """What ``work`` gives, timed as a stage."""
        began, before = time.perf_counter(), self.compiled
        found = work()
        self.stages[name] = (time.perf_counter() - began, self.compiled - before)
        return found

    def _note(self, event: str, seconds: float, **_: Any) -> None:
        if event == COMPILED:
            self.compiled += seconds


@dataclass
class Made:
    """What the run has made, as far as floors depend on it."""

    model: LM
    cache: Cache
    config: Config
    anchors: LayerAnchors
    layers: tuple[int, ...]


def run(args: argparse.Namespace, clock: Clock) -> Made:
    """Make a quickstart in ``given.out``, every stage timed."""
    out = args.out
    clock.stage("start-up", start_up)
    model = clock.stage("model", lambda: load_lm(fetch_smollm2(), faster_dtype()))
    layers, url = default_layers(model.spec.n_layers), str(out / "cache")
    settings = Settings(
        layers=layers, context_length=CONTEXT, max_rows=args.rows, chunk_rows=CHUNK_ROWS
    )
    text = read_documents(TEXT)
    clock.stage("extraction", lambda: extract(model, text, url, settings, source=TEXT))
    config = preset(url, layers[len(layers) // 2], str(out / "run"))
    config = replace(config, run=replace(config.run, steps=args.steps))
    cache, data = Cache.open(url), config.data
    anchors = clock.stage(
        "layer anchors",
        lambda: layer_anchors(cache, data.layer, data.skip_positions, data.max_norm),
    )
    clock.stage("training", lambda: train(config))
    trained = open_trained(config.run.out)
    names = clock.stage("naming", lambda: run_names(trained))
    watch = FiringObserver(trained.cache, SPLIT)
    evaluation = clock.stage("evaluation", lambda: evaluate_run(trained, names, observe=watch))
    clock.stage("evidence of names", lambda: name_run(trained, names, evaluation, watch))
    return Made(model, cache, config, anchors, layers)


def start_up() -> None:
    """A process that loads what training loads, and ends."""
    subprocess.run([sys.executable, "-c", "import vasae_jax.training.loop"], check=True)


def floors(made: Made) -> dict[str, float]:
    """Seconds that a stage's products would take at the rates of this machine."""
    cache, config, spec = made.cache, made.config, made.model.spec
    d, features, batch = spec.d_model, config.sae.d_sae, config.data.batch
    in_type = rate(WINDOWS * CONTEXT, d, spec.d_ff, faster_dtype())
    in_float = rate(4096, d, features, "float32")
    rows = cache.rows("train") + cache.rows("heldout")
    step = {"product": product(batch, d, features, "float32"), "copy": copy(features, d)}
    parts = in_turns(step, 9)
    counts = (made.anchors.at.count, made.anchors.before.count)
    seen = sum(int((count > 0).sum()) for count in counts)
    named = 2 * spec.vocab_size + len(layer_targets(made.anchors, config.anchor).rows) + seen
    return {
        "extraction": rows * row_flops(spec, made.layers[-1] + 1, CONTEXT) / in_type,
        "training": config.run.steps * (parts["product"] + 7 * parts["copy"]),
        "naming": 2.0 * named * features * d / in_float,
        "evaluation": 2.0 * cache.rows("heldout") * features * d / in_float,
    }


def record(made: Made, clock: Clock, least: dict[str, float]) -> dict[str, Any]:
    """What ``--json`` prints."""
    stages = [
        {
            "stage": name,
            "seconds": seconds,
            "compile_s": compiled,
            "floor_s": least.get(name),
            "ratio": seconds / least[name] if name in least else None,
        }
        for name, (seconds, compiled) in clock.stages.items()
    ]
    return {
        "bench": "run",
        **describe(),
        "rows": made.cache.rows("train") + made.cache.rows("heldout"),
        "heldout_rows": made.cache.rows("heldout"),
        "d_in": made.model.spec.d_model,
        "d_sae": made.config.sae.d_sae,
        "vocab": made.model.spec.vocab_size,
        "steps": made.config.run.steps,
        "compute": faster_dtype(),
        "stages": stages,
        "total_s": sum(stage["seconds"] for stage in stages),
    }


def show(found: dict[str, Any]) -> None:
    """The stages as a table."""
    print(f"{found['device']}, {found['rows']:,} rows, {found['steps']} steps")
    print(f"{'stage':<20}{'seconds':>9}{'compile':>9}{'floor':>9}{'ratio':>7}")
    for stage in found["stages"]:
        least = "" if stage["floor_s"] is None else f"{stage['floor_s']:9.1f}{stage['ratio']:7.2f}"
        print(f"{stage['stage']:<20}{stage['seconds']:9.1f}{stage['compile_s']:9.1f}{least}")
    print(f"{'all':<20}{found['total_s']:9.1f}")


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, type=Path, help="an empty or new directory")
    parser.add_argument("--rows", type=int, default=200_000, help="most tokens (default: all)")
    parser.add_argument("--steps", type=int, default=600, help="training steps (default: 600)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args()
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"--out {args.out} is not empty; expected a new or empty directory")
    reuse_memory()
    clock = Clock()
    made = run(args, clock)
    found = record(made, clock, floors(made))
    if args.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
