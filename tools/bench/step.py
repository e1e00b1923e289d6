#!/usr/bin/env python3
"""Time the training step: plain, both kinds of pull, and the floor of the machine.

    python tools/bench/step.py --shape gpt2 --rows 4096
    python tools/bench/step.py --shape 768,50257,50257 --rows 1024 --peers peers/bin/python --json

``soft`` pulls decoder rows to embeddings (preset ``embedding``), ``layer`` encoder rows to as many
detectors in the measure of a layer's scatter (the default); both pull from the first step. Plain
and pulled steps, the two parts of the floor, and the peers' steps take turns in one run, so that a
machine whose speed drifts favours none. The floor is what no plain step can do without:
the encoder's product at the rate of a bare matrix product, and Adam's traffic (7 streams of both
matrices) at the rate of a bare copy.

Rows are random around a few directions and tokens are random, so the anchor sees every feature
turn, as it does early in a real run. ``--peers`` names the Python of an environment made as
``tools/bench/peers.py`` says. ``--json`` prints one object; times are medians in seconds:

    rows, d_in, d_sae, vocab, execution, compute, device   what was run
    plain_s, soft_s, layer_s a step of each
    floor_s                  product_s + 7 streams of both matrices at copy_s for two of one
    soft_over_plain          median of the ratios of neighbouring steps
    layer_over_soft          the same
    plain_over_floor         plain_s / floor_s
    uncertified              share of features uncertified after the last soft step
    peers                    {library: seconds of its plain step}, empty without --peers
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from machine import tell
from peer_process import Peers

from vasae_jax.anchor.whitening import WithinCov, whitened_anchors, within_cov_of
from vasae_jax.config import AnchorConfig, Config, MeshConfig, RunConfig, SAEConfig
from vasae_jax.config.presets import embedding
from vasae_jax.distributed.environment import reuse_memory
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.sae import choose_execution
from vasae_jax.sae.config import Execution
from vasae_jax.training.autotune import autotuned
from vasae_jax.training.loss import Batch, StepInputs
from vasae_jax.training.state import InitInputs, TrainState, state_maker
from vasae_jax.training.step import make_step

SHAPES = {  # d_in, d_sae, vocabulary
    "quickstart": (576, 4096, 49152),
    "smollm2": (576, 49152, 49152),
    "gpt2": (768, 50257, 50257),
    "llama": (4096, 131072, 131072),
}
WARM = 3
"""Steps before the clock: compilation, and the first turns of every feature."""


class Runner:
    """One method's step with its state, timed a step at a time."""

    def __init__(self, config: Config, shape: tuple[int, int, int], anchors: jax.Array) -> None:
        d_in, d_sae, vocab = shape
        mesh = make_mesh(config.mesh)
        config = autotuned(config, mesh, (d_sae, d_in))
        tokens = jnp.asarray(np.random.default_rng(2).permutation(vocab), jnp.int32)
        within_cov = some_scatter(d_in) if config.anchor.pulls == "encoder" else None
        by_scatter = (
            None if within_cov is None else whitened_anchors(np.asarray(anchors), within_cov)
        )
        rate = jnp.float32(config.sae.k / d_sae)
        init = InitInputs(jax.random.key(0), jnp.zeros((d_in,)), anchors, anchors, tokens, rate)
        self.state: TrainState = state_maker(config, d_sae, mesh, init)(init)
        self.execution: Execution = choose_execution(config.sae.execution, jax.default_backend())
        self._step = make_step(config, mesh, self.state, self.execution)
        shown = anchors if config.sae.method == "soft" else anchors[:1]
        self._inputs = StepInputs(shown, jnp.zeros((d_in,)), jnp.float32(d_in), by_scatter)
        self.uncertified = 0.0

    def run(self, batch: Batch) -> float:
        """Seconds of one step."""
        began = time.perf_counter()
        self.state, metrics = self._step(self.state, batch, self._inputs)
        jax.block_until_ready((self.state, metrics))
        self.uncertified = float(metrics.uncertified)
        return time.perf_counter() - began


def measure(args: argparse.Namespace, shape: tuple[int, int, int]) -> dict[str, Any]:
    """All figures of one shape, medians of ``given.repeats`` steps."""
    d_in, d_sae, vocab = shape
    configs = settings(args)
    rng = np.random.default_rng(0)
    anchors = rng.normal(size=(vocab, d_in)).astype(np.float32)
    anchors /= np.linalg.norm(anchors, axis=1, keepdims=True)
    runners = {
        name: Runner(config, shape, jnp.asarray(anchors)) for name, config in configs.items()
    }
    product, copy = floor_parts(runners["plain"].state, args.rows, args.compute)
    k = configs["plain"].sae.k
    peers = Peers(args.peers) if args.peers else None
    names = peers.names if peers else []
    turns: dict[str, Callable[[Batch], float]] = {name: one.run for name, one in runners.items()}
    turns |= {"product": lambda _: timed(product), "copy": lambda _: timed(copy)}
    for name in names:
        peers.make(name, d_in=d_in, d_sae=d_sae, k=k, batch=args.rows, lr=1e-3)
        turns[name] = lambda batch, name=name: peers.step(name, np.asarray(batch.x, np.float32))
    times = take_turns(turns, rng, args.rows, d_in, args.repeats)
    middle = {name: statistics.median(values) for name, values in times.items()}
    floor_s = middle["product"] + 7 * middle["copy"]
    return {
        "rows": args.rows,
        "d_in": d_in,
        "d_sae": d_sae,
        "vocab": vocab,
        "execution": runners["soft"].execution,
        "plain_s": middle["plain"],
        "soft_s": middle["soft"],
        "floor_s": floor_s,
        "layer_s": middle["layer"],
        "soft_over_plain": ratio(times["soft"], times["plain"]),
        "layer_over_soft": ratio(times["layer"], times["soft"]),
        "plain_over_floor": middle["plain"] / floor_s,
        "uncertified": runners["soft"].uncertified,
        "peers": {name: middle[name] for name in names},
    }


def ratio(some: list[float], others: list[float]) -> float:
    """The median of the ratios of neighbouring steps."""
    return statistics.median(one / other for one, other in zip(some, others, strict=True))


def take_turns(
    turns: dict[str, Callable[[Batch], float]],
    rng: np.random.Generator,
    rows: int,
    d_in: int,
    repeats: int,
) -> dict[str, list[float]]:
    """Seconds of each of ``turns`` in every round, all with the same batch.

    A turn is two steps and the second counts: the first finds the caches full of what another
    left there, as no step of a training run does.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    centres = rng.normal(size=(64, d_in)).astype(np.float32)
    for number in range(WARM + repeats):
        batch = random_rows(rng, centres, rows)
        for name, step in turns.items():
            step(batch)
            seconds = step(batch)
            if number >= WARM:
                times[name].append(seconds)
    return times


def settings(args: argparse.Namespace) -> dict[str, Config]:
    """The settings of every step that is timed, for the command line."""

    def with_pull(anchor: AnchorConfig, method: Literal["plain", "soft"] = "soft") -> Config:
        return Config(
            sae=SAEConfig(
                k=32, method=method, compute_dtype=args.compute, execution=args.execution
            ),
            anchor=replace(anchor, search_fraction=args.search_fraction, start=0.0, warmup=0.0),
            mesh=MeshConfig(data=1, model=1),
            run=RunConfig(steps=1000),
        )

    return {
        "plain": with_pull(AnchorConfig(), "plain"),
        "soft": with_pull(embedding().anchor),
        "layer": with_pull(AnchorConfig()),
    }


def some_scatter(d_in: int) -> WithinCov:
    """Of rows whose variances fall from 500 to 1, as in a layer of SmolLM2-135M."""
    vectors = np.linalg.qr(np.random.default_rng(4).normal(size=(d_in, d_in)))[0]
    return within_cov_of((vectors * np.geomspace(1, 500, d_in)) @ vectors.T)


def random_rows(rng: np.random.Generator, centres: np.ndarray, rows: int) -> Batch:
    """Rows around random ones of ``centres`` [n, d]."""
    noise = rng.normal(size=(rows, centres.shape[1])).astype(np.float32)
    x = centres[rng.integers(0, len(centres), rows)] + noise
    batch = Batch(jnp.asarray(x, jnp.bfloat16), jnp.ones((rows,), bool))
    return jax.block_until_ready(batch)


def floor_parts(
    state: TrainState, rows: int, compute: str
) -> tuple[Callable[[], jax.Array], Callable[[], jax.Array]]:
    """The encoder's bare product, and a bare copy of a matrix (two streams), compiled."""
    d_sae, d_in = state.params["W_enc"].shape
    x = jnp.ones((rows, d_in), jnp.dtype(compute))
    W = jnp.ones((d_sae, d_in), jnp.float32)
    weights = W.astype(jnp.dtype(compute))
    product = jax.jit(
        lambda x, W: jax.lax.dot_general(
            x, W, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32
        )
    )
    copy = jax.jit(lambda W: W + 1.0)
    return lambda: product(x, weights), lambda: copy(W)


def timed(run: Callable[[], jax.Array]) -> float:
    """Seconds until the result of ``run`` is there."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def shape_of(text: str) -> tuple[int, int, int]:
    """A named shape, or d_in,d_sae,vocabulary."""
    if text in SHAPES:
        return SHAPES[text]
    parts = text.split(",")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no shape; expected one of {', '.join(SHAPES)} or d_in,d_sae,vocabulary"
        )
    d_in, d_sae, vocab = map(int, parts)
    return d_in, d_sae, vocab


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", type=shape_of, default=SHAPES["quickstart"])
    parser.add_argument("--rows", type=int, default=1024, help="rows of a batch")
    parser.add_argument("--repeats", type=int, default=9, help="timed steps of each")
    parser.add_argument("--compute", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--execution", choices=("auto", "dense", "sparse"), default="auto")
    parser.add_argument("--search-fraction", type=float, default=AnchorConfig.search_fraction)
    parser.add_argument("--peers", help="Python of an environment with other libraries")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args()
    reuse_memory()
    found = {
        "compute": args.compute,
        "device": jax.devices()[0].device_kind,
        **measure(args, args.shape),
    }
    tell(found, as_json=args.json)


if __name__ == "__main__":
    main()
