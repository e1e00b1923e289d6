#!/usr/bin/env python3
"""Time extraction against its floor, and against Hugging Face's PyTorch model of the same shape.

    python tools/bench/extract.py                       # SmolLM2-135M, both types
    python tools/bench/extract.py --types bfloat16 --json

Both run windows of random tokens through the blocks up to the deepest layer of the quickstart and
no further, on the same threads, in turns. PyTorch (pip install '.[torch]') has random weights, and
the best of its attention implementations and batch sizes counts. The floor is the flops of all
products at the rate of a bare product of the feed-forward layer's shape. ``--json`` prints one
object:

    device, jax, torch      the machine
    padding                 share of padded places over the quickstart's text
    types                   {type: figures}: rows_per_s of three layers and of the deepest alone,
                            floor_rows_per_s, share_of_floor, torch_rows_per_s, over_torch
"""

import argparse
import itertools
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from machine import describe, in_turns, rate

from vasae_jax.extract import read_documents
from vasae_jax.extract.pipeline import start_rows
from vasae_jax.extract.windows import make_windows
from vasae_jax.lm import LM, load_lm
from vasae_jax.lm.smollm2 import fetch_smollm2
from vasae_jax.lm.spec import Spec
from vasae_jax.quickstart import CONTEXT, TEXT, default_layers
from vasae_jax.system.memory import keep_pages

WINDOWS = 32
"""Windows in a forward pass, as extraction has by default."""
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
    places = windows.batches(WINDOWS) * WINDOWS * CONTEXT
    return 1.0 - len(windows.tokens) / places


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


def measure(dtype: str, rounds: int, with_torch: bool) -> dict[str, Any]:
    """The record of one type."""
    model = load_lm(fetch_smollm2(), dtype)
    layers = default_layers(model.spec.n_layers)
    tokens = np.random.default_rng(0).integers(0, model.spec.vocab_size, (WINDOWS, CONTEXT))
    ways: dict[str, Callable] = {
        "all": lambda: start_rows(model, tokens, layers, "bfloat16")(),
        "one": lambda: start_rows(model, tokens, layers[-1:], "bfloat16")(),
    }
    if with_torch:
        ways |= torch_ways(model.spec, layers[-1] + 1, dtype, tokens)
    seconds = in_turns(ways, rounds)
    flops = row_flops(model.spec, layers[-1] + 1, CONTEXT)
    peak = rate(WINDOWS * CONTEXT, model.spec.d_model, model.spec.d_ff, dtype)
    rows = {name: tokens.size / taken for name, taken in seconds.items()}
    found = {
        "rows_per_s": rows["all"],
        "one_layer_rows_per_s": rows["one"],
        "several_over_one": seconds["all"] / seconds["one"],
        "floor_rows_per_s": peak / flops,
        "share_of_floor": rows["all"] * flops / peak,
        "gflops_peak": peak / 1e9,
    }
    if with_torch:
        best = max((name for name in rows if name not in ("all", "one")), key=rows.__getitem__)
        found |= {"torch_rows_per_s": rows[best], "torch_best": best}
        found["over_torch"] = rows["all"] / rows[best]
    return found


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    types = ("float32", "bfloat16")
    parser.add_argument("--types", nargs="+", choices=types, default=list(types))
    parser.add_argument("--rounds", type=int, default=3, help="timed passes of each (default: 3)")
    parser.add_argument("--without-torch", action="store_true", help="only what is ours")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    given = parser.parse_args()
    keep_pages()
    found: dict[str, Any] = {"bench": "extract", **describe()}
    if not given.without_torch:
        import torch

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        found["torch"] = torch.__version__
    found["padding"] = padding(load_lm(fetch_smollm2(), "bfloat16"))
    found["types"] = {
        dtype: measure(dtype, given.rounds, not given.without_torch) for dtype in given.types
    }
    if given.json:
        print(json.dumps(found))
        return
    print(f"{found['device']}: padding {found['padding']:.2%}")
    for dtype, record in found["types"].items():
        shown = (
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in record.items()
        )
        print(f"{dtype}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
