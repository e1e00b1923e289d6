#!/usr/bin/env python3
"""Time the training step: plain against soft, and both against the floor of the machine.

Plain and soft steps take turns in one run, so that a machine whose speed drifts favours
neither. The floor is what no plain step can do without: the encoder's product at the rate of
a bare matrix product, and Adam's traffic (7 streams of both matrices) at the rate of a bare
copy, both measured in the same run.

Rows are random around a few directions and tokens are random, so the anchor sees every
feature turn, as it does early in a real run.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.config import AnchorConfig, Config, MeshConfig, RunConfig, SAEConfig
from vasae_jax.mesh import make_mesh
from vasae_jax.sae import choose_execution
from vasae_jax.train.loss import Batch, Context
from vasae_jax.train.state import Start, TrainState, make_state
from vasae_jax.train.step import make_step

SHAPES = {  # d_in, d_sae, vocabulary
    "quickstart": (576, 4096, 49152),
    "smollm2": (576, 49152, 49152),
    "gpt2": (768, 50257, 50257),
}
WARM = 3
"""Steps before the clock: compilation, and the first turns of every feature."""


class Runner:
    """One method's step with its state, timed a step at a time."""

    def __init__(self, config: Config, shape: tuple[int, int, int], anchors: jax.Array) -> None:
        d_in, d_sae, vocab = shape
        mesh = make_mesh(config.mesh)
        tokens = jnp.asarray(np.random.default_rng(2).permutation(vocab), jnp.int32)
        start = Start(jax.random.key(0), jnp.zeros((d_in,)), anchors, tokens)
        self.state: TrainState = make_state(config, d_sae, mesh, start)
        execution = choose_execution(config.sae.execution, jax.default_backend())
        self._step = make_step(config, mesh, self.state, execution)
        shown = anchors if config.sae.method == "soft" else anchors[:1]
        self._context = Context(shown, jnp.zeros((d_in,)), jnp.float32(d_in))
        self.uncertified = 0.0

    def run(self, batch: Batch) -> float:
        """Seconds of one step."""
        began = time.perf_counter()
        self.state, metrics = self._step(self.state, batch, self._context)
        jax.block_until_ready((self.state, metrics))
        self.uncertified = float(metrics.uncertified)
        return time.perf_counter() - began


def measure(shape: tuple[int, int, int], rows: int, repeats: int, config: Config) -> dict[str, Any]:
    """All figures of one shape, medians of ``repeats`` steps."""
    d_in, d_sae, vocab = shape
    rng = np.random.default_rng(0)
    anchors = rng.normal(size=(vocab, d_in)).astype(np.float32)
    anchors /= np.linalg.norm(anchors, axis=1, keepdims=True)
    centres = rng.normal(size=(64, d_in)).astype(np.float32)
    runners = {
        method: Runner(with_method(config, method), shape, jnp.asarray(anchors))
        for method in ("plain", "soft")
    }
    times: dict[str, list[float]] = {method: [] for method in runners}
    for number in range(WARM + repeats):
        x = centres[rng.integers(0, 64, rows)] + rng.normal(size=(rows, d_in)).astype(np.float32)
        batch = Batch(jnp.asarray(x, jnp.bfloat16), jnp.ones((rows,), bool))
        for method, runner in runners.items():
            seconds = runner.run(batch)
            if number >= WARM:
                times[method].append(seconds)
    plain_s, soft_s = (statistics.median(times[method]) for method in ("plain", "soft"))
    floor_s = floor(runners["plain"].state, rows, config.sae.compute, repeats)
    return {
        "rows": rows,
        "d_in": d_in,
        "d_sae": d_sae,
        "vocab": vocab,
        "plain_s": plain_s,
        "soft_s": soft_s,
        "floor_s": floor_s,
        "soft_over_plain": soft_s / plain_s,
        "plain_over_floor": plain_s / floor_s,
        "uncertified": runners["soft"].uncertified,
    }


def with_method(config: Config, method: Any) -> Config:
    """``config`` for another method."""
    return Config(
        sae=SAEConfig(**{**vars(config.sae), "method": method}),
        anchor=config.anchor,
        mesh=config.mesh,
        run=config.run,
    )


def floor(state: TrainState, rows: int, compute: str, repeats: int) -> float:
    """Seconds that the encoder's product and Adam's traffic take by themselves."""
    W = state.params["W_enc"]
    x = jnp.ones((rows, W.shape[1]), jnp.dtype(compute))
    weights = W.astype(jnp.dtype(compute))
    product = jax.jit(
        lambda x, W: jax.lax.dot_general(
            x, W, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )
    )
    copy = jax.jit(lambda W: W + 1.0)  # reads and writes: two streams
    product_s = median_time(lambda: product(x, weights), repeats)
    return product_s + 2 * 3.5 * median_time(lambda: copy(W), repeats)


def median_time(run: Callable[[], jax.Array], repeats: int) -> float:
    """Median seconds of ``run`` after one warm-up."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="quickstart")
    parser.add_argument("--rows", type=int, default=1024, help="rows of a batch")
    parser.add_argument("--repeats", type=int, default=9, help="timed steps of each")
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--search-share", type=float, default=AnchorConfig.search_share)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    given = parser.parse_args()
    config = Config(
        sae=SAEConfig(k=32, compute=given.compute),
        anchor=AnchorConfig(search_share=given.search_share),
        mesh=MeshConfig(data=1, model=1),
        run=RunConfig(steps=1000),
    )
    found = {
        "shape": given.shape,
        "compute": given.compute,
        "device": jax.devices()[0].device_kind,
        **measure(SHAPES[given.shape], given.rows, given.repeats, config),
    }
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<18}{value:.4g}" if isinstance(value, float) else f"{name:<18}{value}")


if __name__ == "__main__":
    main()
