#!/usr/bin/env python3
"""Time an evaluation against its floors: rows of a large dictionary, and a patched model.

    python tools/bench/eval.py                            # about two minutes on two CPU cores
    python tools/bench/eval.py --run out/bench/run/run    # and `vasae eval --lm`, of SmolLM2

Rows: random ones of a made-up cache through a dictionary of 50257 features, as ``vasae eval`` reads
and measures them, in turns with bare products of the encoder's shape. The figure of a million rows
is that of these rows: batches are alike. Patching: a run of tools/bench/run.py, some windows of its
held-out text, and ablation. Its floor is the flops of the forward passes
that the figures need, over the tokens of their windows, at the rate of a bare product. Programs are
compiled before anything is timed. ``--json`` prints one object:

    device, jax, d_in, d_sae, k     the machine, and the dictionary of the rows
    batch, rows                     rows at once, and those that were timed
    rows_per_s, taken_s             over those rows
    floor_s, floor_share            the encoder's float32 product for them, and it over taken_s
    best_type, best_share           the type that the product is faster in, and it over taken_s
    screened                        whether the product was screened in bfloat16
    lm                              of patching and ablation: windows, taken_s, floor_s, share
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from extract import WINDOWS
from machine import describe, in_turns, product, rate, tell
from stream import MASK, make_cache

from vasae_jax.cache import Cache
from vasae_jax.config import Config, DataConfig, SAEConfig
from vasae_jax.distributed.environment import reuse_memory
from vasae_jax.evaluation import name_effects as outputs
from vasae_jax.evaluation.evaluate import evaluate_rows as evaluate
from vasae_jax.evaluation.metrics import NearestAnchors
from vasae_jax.evaluation.patching.measure import measure_lm
from vasae_jax.evaluation.patching.model import Model, WindowTable, open_model
from vasae_jax.evaluation.run import BATCH, SPLIT, evaluate_run, run_names, screened
from vasae_jax.lm.smollm2 import fetch_smollm2
from vasae_jax.lm.spec import Spec
from vasae_jax.names.firings import FiringObserver
from vasae_jax.sae.params import Params, init_params
from vasae_jax.stream.source import Batch, rows_in_order
from vasae_jax.training.run import Run, open_trained

D_IN, FEATURES, K = 768, 50257, 32
TYPES = ("float32", "bfloat16")
PATCHES = 7
"""Passes from the layer on that the figures need: itself, and three patches by two policies."""
HEADS = 2
"""Rows that go into the head alone: the layer's own, and what replaces them."""


def random_sae() -> tuple[Params, SAEConfig]:
    """A dictionary as training begins with one, of random directions."""
    sae = SAEConfig(k=K, d_sae=FEATURES, decoder_init="random")
    nothing = np.zeros((1, D_IN), np.float32)
    start = init_params(jax.random.key(0), sae, FEATURES, nothing[0], nothing, np.zeros(1, int))
    return jax.block_until_ready(start), sae


class Clock:
    """An observer of an evaluation that notes when each batch was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, *_: Any) -> None:
        """A batch is done."""
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """From the first batch's end to the last one's."""
        return self.times[-1] - self.times[0]


def first(batches: Iterator[Batch], count: int) -> Iterable[Batch]:
    """The first ``count`` batches."""
    return (batch for _, batch in zip(range(count), batches, strict=False))


def measure_rows(rounds: int, batches: int) -> dict[str, Any]:
    """The record of rows; each round takes the time of ``batches`` batches after a first one."""
    params, sae = random_sae()
    nearest = (NearestAnchors("none", np.zeros(FEATURES, int), np.zeros(FEATURES), 1),)
    products = {kind: product(BATCH, D_IN, FEATURES, kind) for kind in TYPES}
    taken: list[float] = []
    bare: dict[str, list[float]] = {kind: [] for kind in TYPES}
    with tempfile.TemporaryDirectory() as place:
        mib = 2 * D_IN * BATCH * (batches + 1) // 2**20 + 1
        cache = Cache.open(make_cache(f"{place}/cache", mib, D_IN))
        by_screen = screened(Run(Config(sae=sae, data=DataConfig(batch=BATCH)), 0, params, cache))
        for number in range(rounds + 1):
            read = rows_in_order(cache, 0, "train", MASK, batch=BATCH)
            clock = Clock()
            some = first(read, batches + 1)
            evaluate(params, sae, some, nearest, observe=clock, screened=by_screen)
            found = in_turns(products, batches)
            if number:
                taken.append(clock.seconds / batches)
                for kind, seconds in found.items():
                    bare[kind].append(seconds)
    seconds = statistics.median(taken)
    floor = {kind: statistics.median(values) for kind, values in bare.items()}
    best = min(floor, key=floor.__getitem__)
    return {
        "d_in": D_IN,
        "d_sae": FEATURES,
        "k": K,
        "batch": BATCH,
        "rows": rounds * batches * BATCH,
        "rows_per_s": BATCH / seconds,
        "taken_s": rounds * batches * seconds,
        "floor_s": rounds * batches * floor["float32"],
        "floor_share": floor["float32"] / seconds,
        "best_type": best,
        "best_share": floor[best] / seconds,
        "screened": by_screen,
    }


def block_flops(spec: Spec, context: float) -> float:
    """Flops of a row's products in one block, attention over ``context`` places."""
    head, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    weights = spec.d_model * (2 * head + 2 * kv) + (2 + spec.gated) * spec.d_model * spec.d_ff
    return 2.0 * (weights + 2 * context * head)


def patching_flops(spec: Spec, layer: int, lengths: np.ndarray) -> float:
    """Of what :func:`measure_lm` needs of windows of these ``lengths``."""
    after = spec.n_layers - layer - 1
    blocks = spec.n_layers + PATCHES * after
    head = 2.0 * spec.d_model * spec.vocab_size * (1 + PATCHES + HEADS)
    return sum(float(n) * (blocks * block_flops(spec, n) + head) for n in lengths)


def ablation_flops(spec: Spec, layer: int, lengths: np.ndarray) -> float:
    """Of ablations in windows of these ``lengths``: run whole, and again from the layer on."""
    blocks = spec.n_layers + spec.n_layers - layer - 1
    head = 2.0 * spec.d_model * spec.vocab_size * 2
    return sum(float(n) * blocks * block_flops(spec, n) + head for n in lengths)


def measure_patching(run: Run, model: Model, windows: int) -> dict[str, Any]:
    """The record of patching and ablation."""
    data, spec = run.config.data, model.spec
    names, watch = run_names(run), FiringObserver(run.cache, SPLIT)
    evaluate_run(run, names, SPLIT, watch)
    firings, first = watch.firings(), names.embedding.ids[:, 0]
    ways = {
        "patching": lambda: measure_lm(run, model, SPLIT, windows),
        "ablations": lambda: outputs.ablation_shares(run, model, SPLIT, firings, first),
    }
    table = WindowTable.of(run.cache, data.layer, SPLIT, data.mask)
    lengths = table.take(table.sample(windows), windows).real.sum(axis=1)
    fired = np.bincount(firings.feature, minlength=len(first))
    numbers, _ = table.locate(outputs.choose_ablations(firings, fired).row)
    ablated = np.array([table.take(numbers[n : n + 1], 1).real.sum() for n in range(len(numbers))])
    flops = {
        "patching": patching_flops(spec, data.layer, lengths),
        "ablations": ablation_flops(spec, data.layer, ablated),
    }
    kind = "bfloat16" if "bfloat16" in model.computed else "float32"
    taken = in_turns(ways, 1)
    peak = rate(WINDOWS * run.cache.manifest.context_length, spec.d_model, spec.d_ff, kind)
    parts = {name: {"taken_s": taken[name], "floor_s": float(flops[name]) / peak} for name in ways}
    both = {key: sum(part[key] for part in parts.values()) for key in ("taken_s", "floor_s")}
    return {
        "model": model.id,
        "computed": model.computed,
        "layer": data.layer,
        "windows": windows,
        "tokens": int(lengths.sum()),
        "ablated": len(ablated),
        "gflops_peak": peak / 1e9,
        "parts": {
            name: part | {"share": part["floor_s"] / part["taken_s"]}
            for name, part in parts.items()
        },
        "share": both["floor_s"] / both["taken_s"],
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns to take the median of")
    parser.add_argument("--batches", type=int, default=3, help="batches of rows in a turn")
    parser.add_argument("--run", help="a run on a cache of SmolLM2, to patch that model too")
    parser.add_argument("--windows", type=int, default=16, help="windows to patch")
    parser.add_argument("--skip-rows", action="store_true", help="only patch")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args()
    reuse_memory()
    found: dict[str, Any] = {"bench": "eval", **describe()}
    if not args.skip_rows:
        found |= measure_rows(args.rounds, args.batches)
    if args.run:
        run = open_trained(args.run)
        model = open_model(str(fetch_smollm2()), "auto", run.cache)
        found["lm"] = measure_patching(run, model, args.windows)
    tell(found, as_json=args.json)


if __name__ == "__main__":
    main()
