#!/usr/bin/env python3
"""What a checkpoint costs the run: the time lost to a save against the time that the save takes.

    python tools/bench/checkpoint.py                                  # 50257 features of width 768
    python tools/bench/checkpoint.py --features 4096 --saves 5

A save is timed until the run may go on, and until it is whole on disk, with nothing computed
meanwhile. Then saves are made while the device multiplies matrices without a pause, and what these
take longer for it is added up: on a CPU a save in the background takes that from the steps, on an
accelerator little, since it runs on the host.
"""

import argparse
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp

from vasae_jax.config import OptimConfig
from vasae_jax.distributed.environment import reuse_memory
from vasae_jax.sae import Params
from vasae_jax.training.checkpoint import Checkpoints
from vasae_jax.training.state import Counters, TrainState, adam


def main() -> None:
    """Time the saves and print their medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--features", type=int, default=50257)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--saves", type=int, default=4, help="saves of each kind")
    parser.add_argument(
        "--out", help="directory on the disk to be timed (default: a temporary one)"
    )
    args = parser.parse_args()
    reuse_memory()
    state = make_state(args.features, args.width)
    nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    print(f"{nbytes / 1e6:,.0f} MB on {jax.devices()[0].device_kind}", flush=True)
    with tempfile.TemporaryDirectory(dir=args.out) as folder, Checkpoints(folder) as kept:
        idle = [timed(kept, step, state) for step in range(1, args.saves + 1)]
        busy = [slowed(kept, 100 + step, state) for step in range(args.saves)]
    lost, save = (statistics.median(times) for times in zip(*idle, strict=True))
    print(f"save {save:.2f} s, of which the run loses {lost:.2f} s ({lost / save:.1%})")
    print(f"a busy processor loses {statistics.median(busy):.2f} s more to a save")


def make_state(features: int, width: int) -> TrainState:
    """A state as it is trained without anchors."""
    key = jax.random.key(0)
    shapes = {"W_enc": (features, width), "b_enc": (features,), "W_dec": (features, width)}
    shapes["b_dec"] = (width,)
    params: Params = {name: jax.random.normal(key, shape) for name, shape in shapes.items()}
    counters = Counters(jnp.zeros(features, jnp.int32), jnp.zeros(features))
    return TrainState(jnp.int32(1), params, adam(OptimConfig()).init(params), None, counters)


def timed(kept: Checkpoints, step: int, state: TrainState) -> tuple[float, float]:
    """Seconds until the caller may go on, and until the save is whole."""
    jax.block_until_ready(state)
    start = time.monotonic()
    kept.save(step, state)
    lost = time.monotonic() - start
    kept.steps()
    return lost, time.monotonic() - start


def slowed(kept: Checkpoints, step: int, state: TrainState) -> float:
    """Seconds by which a save in the background slows a device that has no pause."""
    x = jnp.ones((2048, 2048))
    work = jax.jit(lambda x: x @ x * 1e-3)
    alone = statistics.median(_work(work, x) for _ in range(40))
    kept.save(step, state)
    whole, took = kept.run / "checkpoints" / str(step), []
    while not whole.is_dir():
        took.append(_work(work, x))
    kept.steps()
    return sum(took) - len(took) * alone


def _work(work: "jax.stages.Wrapped", x: jax.Array) -> float:
    start = time.monotonic()
    jax.block_until_ready(work(x))
    return time.monotonic() - start


if __name__ == "__main__":
    main()
