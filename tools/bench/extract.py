#!/usr/bin/env python3
"""Time extraction against its floor, and against Hugging Face's PyTorch model of the same shape.

    python tools/bench/extract.py                       # SmolLM2-135M, both types
    python tools/bench/extract.py --types bfloat16 --json

Both run full windows of random tokens through the blocks up to the deepest layer of the quickstart
and no further, on the same threads, in turns with each other and with the bare product that the
floor is worked out from, so that what else the machine does slows all alike. PyTorch (pip install
'.[torch]') has random weights; the way with the fastest pass, of its attention implementations and
batch sizes, takes part in the turns. The floor is the flops of all products, attention over all
places, at the rate of a bare product of the feed-forward layer's shape. ``--json`` prints one
object:

    device, jax, torch      the machine
    padding                 share of empty places over the quickstart's text, packed
    types                   {type: figures}: rows_per_s of three layers and of the deepest alone,
                            several_over_one, floor_rows_per_s, share_of_floor, torch_rows_per_s,
                            over_torch; ratios are medians over rounds of neighbouring passes
    cpu                     {type: figures}: the same ratios of processor time, which says more
                            than the clock where others use the machine
"""

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from machine import describe, product

from vasae_jax.distributed.environment import reuse_memory
from vasae_jax.extract import read_documents
from vasae_jax.extract.passes import Batch, start_rows
from vasae_jax.extract.pipeline import make_batches
from vasae_jax.extract.windows import make_windows
from vasae_jax.lm import LM, load_lm
from vasae_jax.lm.smollm2 import fetch_smollm2
from vasae_jax.lm.spec import Spec
from vasae_jax.quickstart import CONTEXT, TEXT, default_layers

WINDOWS = 32
"""Windows in a forward pass, as extraction has by default."""
PRODUCTS = 32
"""Bare products in a turn, so that it is not much shorter than a pass."""
BATCHES = (8, 32)
"""Windows in a forward pass of PyTorch."""


def row_flops(spec: Spec, layers: int, context: int) -> float:
    """Flops of all products for one row, through ``layers`` blocks, attention over all places."""
    head, kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    gates = 3 if spec.family == "llama" else 2
    weights = spec.d_model * (2 * head + 2 * kv) + gates * spec.d_model * spec.d_ff
    return 2.0 * layers * (weights + 2 * context * head)


def padding(model: LM) -> float:
    """Share of places that hold no token, over the quickstart's text."""
    windows = make_windows(read_documents(TEXT), model.tokenizer.encode, CONTEXT)
    batches = make_batches(windows, model, WINDOWS)
    return 1.0 - len(windows.tokens) / (len(batches) * batches.size * CONTEXT)


def torch_ways(spec: Spec, layers: int, dtype: str, tokens: np.ndarray) -> dict[str, Callable]:
    """Forward passes of all ``tokens`` [S, T] through PyTorch, by attention and batch size."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    def way(attention: str, batch: int) -> Callable[[], Any]:
        config = LlamaConfig(
            hidden_size=spec.d_model,
            intermediate_size=spec.d_ff,
            num_hidden_layers=layers,
            num_attention_heads=spec.n_heads,
            num_key_value_heads=spec.n_kv_heads,
            vocab_size=spec.vocab_size,
            attn_implementation=attention,
        )
        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        model = LlamaModel(config).to(device, getattr(torch, dtype)).eval()
        parts = torch.from_numpy(tokens.astype(np.int64)).to(device).split(batch)

        def run() -> None:
            with torch.inference_mode():
                for part in parts:
                    model(part, use_cache=False).last_hidden_state.cpu()

        return run

    kinds = itertools.product(("sdpa", "eager"), BATCHES)
    return {f"{kind}, {size} windows": way(kind, size) for kind, size in kinds}


def full_batch(tokens: np.ndarray) -> Batch:
    """A batch [S, T] without an empty place; only what a forward pass reads of it."""
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    return Batch(tokens.astype(np.int32), positions, np.zeros_like(positions), {}, {})


def timed(run: Callable[[], Any]) -> np.ndarray:
    """Seconds by the clock, and of processor time, until the result of ``run`` is there."""
    began, used = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return np.array([time.perf_counter() - began, time.process_time() - used])


def rounds_of(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Both times [rounds, 2] of each way, in turns; a first round, which compiles, is not kept."""
    found = [{name: timed(way) for name, way in ways.items()} for _ in range(rounds + 1)]
    return {name: np.stack([each[name] for each in found[1:]]) for name in ways}


def measure(dtype: str, rounds: int, with_torch: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of one type by the clock, and in processor time."""
    model = load_lm(fetch_smollm2(), dtype)
    spec, layers = model.spec, default_layers(model.spec.n_layers)
    shape, depth = (WINDOWS, CONTEXT), layers[-1] + 1
    tokens = np.random.default_rng(0).integers(0, spec.vocab_size, shape)
    batch, bare = full_batch(tokens), product(tokens.size, spec.d_model, spec.d_ff, dtype)
    ways: dict[str, Callable] = {
        "product": lambda: [bare() for _ in range(PRODUCTS)],
        "several": lambda: start_rows(model, batch, layers, "bfloat16")(),
        "one": lambda: start_rows(model, batch, layers[-1:], "bfloat16")(),
    }
    name = ""
    if with_torch:
        name, ways["torch"] = best_of(torch_ways(spec, depth, dtype, tokens))
    times = rounds_of(ways, rounds)
    flops = PRODUCTS * 2.0 * tokens.size * spec.d_model * spec.d_ff
    floor = flops / (tokens.size * row_flops(spec, depth, CONTEXT))
    clock, cpu = ({way: each[:, kind] for way, each in times.items()} for kind in (0, 1))
    found = {
        "rows_per_s": tokens.size / statistics.median(clock["several"]),
        "one_layer_rows_per_s": tokens.size / statistics.median(clock["one"]),
        "floor_rows_per_s": tokens.size * floor / statistics.median(clock["product"]),
        "gflops_peak": flops / statistics.median(clock["product"]) / 1e9,
        **ratios(clock, floor),
    }
    if with_torch:
        rate = tokens.size / statistics.median(clock["torch"])
        found |= {"torch_rows_per_s": rate, "torch_best": name}
    return found, ratios(cpu, floor)


def ratios(times: Mapping[str, np.ndarray], floor: float) -> dict[str, float]:
    """Medians over rounds; ``floor`` is how many passes' flops the bare products do."""
    each = {
        "several_over_one": times["several"] / times["one"],
        "share_of_floor": times["product"] / floor / times["several"],
        "one_layer_share_of_floor": times["product"] / floor / times["one"],
    }
    if "torch" in times:
        each["over_torch"] = times["torch"] / times["several"]
    return {name: float(np.median(ratio)) for name, ratio in each.items()}


def best_of(ways: Mapping[str, Callable]) -> tuple[str, Callable]:
    """The way with the fastest of two passes, after a first."""
    taken = rounds_of(ways, 2)
    name = min(ways, key=lambda way: taken[way][:, 0].min())
    return name, ways[name]


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    types = ("float32", "bfloat16")
    parser.add_argument("--types", nargs="+", choices=types, default=list(types))
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each (default: 5)")
    parser.add_argument("--without-torch", action="store_true", help="only what is ours")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args()
    reuse_memory()
    found: dict[str, Any] = {"bench": "extract", **describe()}
    if not args.without_torch:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        found["torch"] = torch.__version__
    found["padding"] = padding(load_lm(fetch_smollm2(), "bfloat16"))
    found["types"], found["cpu"] = {}, {}
    for dtype in args.types:
        record = measure(dtype, args.rounds, not args.without_torch)
        found["types"][dtype], found["cpu"][dtype] = record
    if args.json:
        print(json.dumps(found))
        return
    print(f"{found['device']}: padding {found['padding']:.2%}")
    for kind in ("types", "cpu"):
        for dtype, record in found[kind].items():
            shown = (
                f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in record.items()
            )
            print(f"{dtype}{' (cpu)' if kind == 'cpu' else ''}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
