"""Times the naming search against the plain matrix product, in one run.

    python tools/bench/naming.py            # 50257 x 50257 x 768, about 3 minutes on 2 cores
    python tools/bench/naming.py --quick    # 8192 x 8192 x 768, seconds

The peak is the best rate of plain products of the same d, in float32 and in bfloat16, measured
between the searches so that all see the same machine. ``--json`` prints one object instead of a
table:

    features, vocab, d, m   the shape
    seconds                 median seconds of one search
    rounds                  how many searches the median is over
    gflops, peak_gflops     2 * features * vocab * d over the time; the best plain product's
    peak_share              gflops / peak_gflops
    float32_peak_gflops     the best plain float32 product's
    extra_mib               memory beyond the inputs, as the compiled program states it (MiB)
    device                  what it ran on
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vasae_jax.names.by_embedding import nearest_program

PEAK_SHAPES = ((1024, 4096), (4096, 4096), (8192, 8192))
TYPES = ("float32", "bfloat16")


def main() -> None:
    """Measure one shape and print it."""
    args = parse()
    rows, tokens = inputs(args.features, args.vocab, args.d)
    search = nearest_program.lower(rows, tokens, m=args.m).compile()
    kinds = list(itertools.product(TYPES, PEAK_SHAPES))
    products = {kind: product(*kind, args.d) for kind in kinds}
    jax.block_until_ready(search(rows, tokens))
    searches, rates = [], {kind: [] for kind in kinds}
    for _ in range(args.rounds):
        searches.append(timed(lambda: search(rows, tokens)))
        for (dtype, shape), run in products.items():
            flops = 2e-9 * shape[0] * shape[1] * args.d
            rates[dtype, shape] += [flops / timed(run) for _ in range(3)]
    show(args, statistics.median(searches), rates, search)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=50257, help="decoder rows")
    parser.add_argument("--vocab", type=int, default=50257, help="tokens")
    parser.add_argument("--d", type=int, default=768, help="width of a row")
    parser.add_argument("--m", type=int, default=5, help="names per feature")
    parser.add_argument("--rounds", type=int, default=5, help="searches to take the median of")
    parser.add_argument("--quick", action="store_true", help="8192 x 8192 instead")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.quick:
        args.features = args.vocab = 8192
    return args


def inputs(features: int, vocab: int, d: int) -> tuple[jax.Array, jax.Array]:
    """Random decoder rows and anchors with a common direction, as real embeddings have."""
    keys = jax.random.split(jax.random.key(0), 3)
    common = jax.random.normal(keys[2], (1, d), jnp.float32)
    return (
        jax.random.normal(keys[0], (features, d), jnp.float32),
        jax.random.normal(keys[1], (vocab, d), jnp.float32) + common,
    )


def product(dtype: str, shape: tuple[int, int], d: int) -> Callable[[], jax.Array]:
    """A compiled plain product of two matrices, [rows, d] with [columns, d], summed in float32."""
    a, b = (side.astype(dtype) for side in inputs(*shape, d))
    dims = (((1,), (1,)), ((), ()))
    multiply = jax.jit(
        lambda x, y: jax.lax.dot_general(
            x, y, dims, precision="highest", preferred_element_type=jnp.float32
        )
    )
    jax.block_until_ready(multiply(a, b))
    return lambda: multiply(a, b)


def timed(run: Callable[[], object]) -> float:
    """Seconds until the results of ``run`` are there."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def show(args: argparse.Namespace, seconds: float, rates: dict, search) -> None:
    """Print the table, or the object."""
    peaks = {
        dtype: max(statistics.median(rates[dtype, shape]) for shape in PEAK_SHAPES)
        for dtype in TYPES
    }
    peak = max(peaks.values())
    gflops = 2e-9 * args.features * args.vocab * args.d / seconds
    memory = search.memory_analysis()
    record = {
        **{key: getattr(args, key) for key in ("features", "vocab", "d", "m", "rounds")},
        "seconds": round(seconds, 4),
        "gflops": round(gflops, 1),
        "peak_gflops": round(peak, 1),
        "peak_share": round(gflops / peak, 3),
        "float32_peak_gflops": round(peaks["float32"], 1),
        "extra_mib": (memory.temp_size_in_bytes + memory.output_size_in_bytes) // 2**20,
        "device": jax.devices()[0].device_kind,
    }
    if args.json:
        print(json.dumps(record))
        return
    for key, value in record.items():
        print(f"{key:12} {value}")
    for shape, values in rates.items():
        print(f"plain product {shape[0]} x {shape[1]}: {statistics.median(values):.0f} GFLOP/s")


if __name__ == "__main__":
    main()
