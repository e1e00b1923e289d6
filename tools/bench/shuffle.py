#!/usr/bin/env python3
"""Train one SAE on the same rows in several orders: does the stream mix as a whole shuffle does?

    python tools/bench/shuffle.py --cache CACHE --layer 9 --seeds 0 1 2

Orders: ``stream``, what training reads (LANESxWINDOW chunks are mixed at a time); ``global``, a
new permutation of all rows in every epoch, for which they are all held in memory; ``stored``,
none at all. A seed starts every order from the same parameters. The table has mean and half
range over the seeds: the entropy of a batch over documents in bits, the fraction of variance
unexplained of the training batches since the line before, and that of the held-out split, both
without masked rows. ``--json`` prints every number as one line for each order, seed and step:

    order, seed, step    what was trained, and how long
    batch_bits           entropy of a batch over documents so far, mean over batches
    train_fvu            mean since the step of the line before
    heldout_fvu          after the step
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.activations import activation_of
from vasae_jax.cache import Cache
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.distributed.environment import reuse_memory
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.sae import choose_execution, decode, encode
from vasae_jax.stream.source import Batch, rows_in_order
from vasae_jax.stream.stream import entropy_bits
from vasae_jax.training.checks import check_cache, check_settings
from vasae_jax.training.inputs import init_run, make_stream
from vasae_jax.training.loss import Batch as DeviceBatch
from vasae_jax.training.step import make_steps
from vasae_jax.utils.errors import UserError

Order = Iterator[Batch]


def main() -> None:
    """Train every order with every seed, and print."""
    reuse_memory()
    parser = _parser()
    args = parser.parse_args()
    try:
        rows = train_all(args)
    except UserError as error:
        parser.exit(2, f"shuffle: {error}\n")
    print("\n".join(map(json.dumps, rows)) if args.json else table(rows))


def train_all(args: argparse.Namespace) -> list[dict]:
    """A row for each order, seed and marked step."""
    cache = Cache.open(args.cache)
    orders: dict[str, Callable[[Config], Order]] = {
        "global": lambda config: permuted(whole, config, np.random.default_rng(config.run.seed)),
        "stored": lambda config: permuted(whole, config, None),
    }
    configs = {name: make_config(args, name) for name in args.orders}
    for config in configs.values():
        check_settings(config)
        check_cache(config, cache)
    whole = read_split(cache, config, "train")
    measure = make_measure(config, read_split(cache, config, "heldout"))
    found, steps = [], None
    for seed in args.seeds:
        for name, config in configs.items():
            config = replace(config, run=replace(config.run, seed=seed))
            order = orders.get(name, lambda config: in_stream_order(cache, config))(config)
            mesh = make_mesh(config.mesh)
            context, state = init_run(config, cache, mesh, config.sae.d_sae)
            # Neither the seed nor the order is in the program.
            execution = choose_execution(config.sae.execution, jax.default_backend())
            steps = steps or make_steps(config, mesh, state, execution)
            for row in train(order, steps, state, context, args.marks, measure):
                found.append({"order": name, "seed": seed, **row})
                print(json.dumps(found[-1]), file=sys.stderr)
    return found


def make_config(args: argparse.Namespace, order: str) -> Config:
    """The settings of an order: ``LANESxWINDOW`` of the stream, or one without a stream."""
    data = DataConfig(cache=args.cache, layer=args.layer, batch=args.batch)
    if order not in ("global", "stored"):
        try:
            readers, window = map(int, order.split("x"))
        except ValueError:
            raise UserError(
                f"order {order} is not known; expected global, stored or LANESxWINDOW"
            ) from None
        data = replace(data, readers=readers, shuffle_chunks=window)
    return Config(
        data=data,
        sae=SAEConfig(method=args.method, d_sae=args.d_sae, k=args.k),
        mesh=MeshConfig(data=1, model=1),
        run=RunConfig(out="unused", steps=max(args.marks)),
    )


def read_split(cache: Cache, config: Config, split: str) -> Batch:
    """Every row of a split, in storage order."""
    data = config.data
    parts = list(rows_in_order(cache, data.layer, split, data.mask, batch=4096))
    count = cache.rows(split)
    x, keep, docs = (
        np.concatenate([getattr(part, name) for part in parts])[:count]
        for name in ("x", "keep", "docs")
    )
    return Batch(x, keep, docs)


def in_stream_order(cache: Cache, config: Config) -> Order:
    """What training reads."""
    with make_stream([config], cache).prefetch(0) as batches:
        for _, (batch,) in batches:
            yield batch


def permuted(whole: Batch, config: Config, rng: np.random.Generator | None) -> Order:
    """All rows again and again, each time in a new order of ``rng``, or as they are stored."""
    size, count = config.data.batch, len(whole.keep)
    ahead = np.empty(0, np.int64)
    while True:
        while len(ahead) < size:
            epoch = np.arange(count) if rng is None else rng.permutation(count)
            ahead = np.concatenate([ahead, epoch])
        chosen, ahead = ahead[:size], ahead[size:]
        yield Batch(whole.x[chosen], whole.keep[chosen], whole.docs[chosen])


def make_measure(config: Config, rows: Batch) -> Callable[[dict], float]:
    """Parameters to the fraction of variance unexplained over the kept ``rows``."""
    activation = activation_of(config.sae)
    x = jnp.asarray(rows.x[rows.keep].astype(np.float32))

    @jax.jit
    def measure(params, x):
        x_hat = decode(params, *encode(params, x, activation, config.sae.pre_bias))
        spread = x - x.mean(axis=0, keepdims=True)
        return jnp.square(x - x_hat).sum() / jnp.square(spread).sum()

    return lambda params: float(measure(params, x))


def train(order: Order, steps, state, context, marks: list[int], measure) -> Iterator[dict]:
    """Train to the last mark; what ``--json`` prints of each mark."""
    bits, fvu = [], []
    for number in range(1, max(marks) + 1):
        batch = next(order)
        bits.append(entropy_bits(batch.docs))
        rows = DeviceBatch(jnp.asarray(batch.x), jnp.asarray(batch.keep))
        state, metrics = steps(number)(state, rows, context)
        fvu.append(metrics.fvu)
        if number in marks:
            yield {
                "step": number,
                "batch_bits": round(float(np.mean(bits)), 3),
                "train_fvu": round(float(np.mean(jax.device_get(fvu))), 5),
                "heldout_fvu": round(measure(state.params), 5),
            }
            fvu.clear()


def table(rows: list[dict]) -> str:
    """Mean and half range over the seeds, as a Markdown table."""
    keys = ("batch_bits", "train_fvu", "heldout_fvu")
    lines = [("order", "step", *keys), ("---",) * 5]
    for order, step in dict.fromkeys((row["order"], row["step"]) for row in rows):
        same = [row for row in rows if (row["order"], row["step"]) == (order, step)]
        lines.append((order, str(step), *(spread([row[key] for row in same]) for key in keys)))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def spread(values: list[float]) -> str:
    """``mean ± half range``."""
    return f"{np.mean(values):.4f} ± {(max(values) - min(values)) / 2:.4f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cache", required=True, help="an activation cache")
    add("--layer", type=int, required=True, help="its layer")
    add("--orders", nargs="+", default=["global", "8x4", "2x1", "stored"], metavar="ORDER",
        help="global, stored or LANESxWINDOW (default: global 8x4 2x1 stored)")  # fmt: skip
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    add("--marks", nargs="+", type=int, default=[50, 100, 150, 200], metavar="STEP",
        help="steps to measure after; the last ends the run (default: 50 100 150 200)")  # fmt: skip
    add("--method", choices=("plain", "soft"), default="soft", help="default: soft")
    add("--batch", type=int, default=1024, help="rows of a step (default: 1024)")
    add("--d-sae", type=int, default=2048, help="features (default: 2048)")
    add("--k", type=int, default=32, help="features that fire on a row (default: 32)")
    add("--json", action="store_true", help="print JSON lines instead of a table")
    return parser


if __name__ == "__main__":
    main()
