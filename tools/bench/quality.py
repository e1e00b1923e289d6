#!/usr/bin/env python3
"""What our SAEs reconstruct beside those of sparsify, SAELens and dictionary_learning.

    vasae quickstart
    python tools/bench/quality.py --cache out/quickstart/cache --layer 15 --out out/quality \
        --peers peers/bin/python --into docs/benchmarks.md

``--peers`` names the Python of an environment made as ``tools/bench/peers.py`` says. All are TopK
SAEs of the same shape, in float32, on the same rows in the same order (those that the trainer's
stream gives, less the masked ones), for as many steps, and are measured on the same held-out rows
by our own evaluation. Each library trains as its own trainer does, with Adam and its own AuxK, at
a rate that rises over a quarter of the steps and falls over half (sparsify's own schedule has no
plateau, so it is given this one). AuxK takes a feature for dead after ``--idle`` steps without
firing: the libraries' own 1000 steps or 10 million rows would not be reached.

1. Every library trains at each of ``--rates``. All take all steps: short runs favour high rates.
2. The *best peer* is the fastest of those whose variance explained is within NEAR of the most.
   It trains again, and ours (``--presets``, with each ``--set section.name=value``) beside it, a
   step each in turns, so that a machine whose speed drifts favours none.
3. Ours train once more, for as many steps as take as long as the best peer's run.

Everything measured is a line of ``results.jsonl`` in ``--out``, and what is there is not done
again: a bench that was killed goes on, and of the peers only the best is trained beside another
recipe of ours. (A change of code that changes no setting is not seen: use another ``--out``.) The
table is printed and written to ``table.md``; ``--into`` also puts it between the lines MARKS.
"""

import argparse
import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from machine import describe
from peer_process import Peers
from table import put_between, quality
from whole import Runner

from vasae_jax.cache import Cache
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig
from vasae_jax.config.overrides import flatten, parse_overrides
from vasae_jax.config.presets import default, embedding, named, plain
from vasae_jax.distributed.environment import reuse_memory
from vasae_jax.evaluation.evaluate import evaluate_rows
from vasae_jax.evaluation.patching.measure import measure_lm
from vasae_jax.evaluation.patching.model import Model, open_model
from vasae_jax.evaluation.run import BATCH, SPLIT
from vasae_jax.interop.libraries import read_foreign
from vasae_jax.interop.record import Imported
from vasae_jax.lm.smollm2 import fetch_smollm2
from vasae_jax.stream.source import Batch as HostBatch
from vasae_jax.stream.source import rows_in_order
from vasae_jax.training.hparams import first_pulled_step, peak_lr
from vasae_jax.training.inputs import make_stream, open_inputs
from vasae_jax.training.loss import Batch
from vasae_jax.training.run import Run, imported_config, imported_params
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.progress import Progress

MARKS = ("<!-- made by tools/bench/quality.py -->", "<!-- end of what it made -->")
PRESETS = {"plain": plain, "default": default, "named": named, "embedding": embedding}
NEAR = 0.002
"""A difference of the variance explained that another seed could make."""
Record = dict[str, Any]


class Learner(Protocol):
    """An SAE that takes a step at a time."""

    untimed: set[int]
    """Steps, from 1, in which something is compiled or prepared."""

    def step(self, number: int, batch: HostBatch) -> float:
        """Seconds of step ``number``."""


class Peer:
    """A library's SAE, started anew."""

    untimed = frozenset({1})

    def __init__(self, peers: Peers, name: str, settings: Mapping[str, Any]) -> None:
        peers.make(name, **settings)
        self._peers, self._name = peers, name

    def step(self, number: int, batch: HostBatch) -> float:  # noqa: D102
        return self._peers.step(self._name, batch.x[batch.keep].astype(np.float32))


class Ours:
    """A run of ours."""

    def __init__(self, config: Config, cache: Cache) -> None:
        self._runner = Runner(config, cache)
        self.untimed = {1, first_pulled_step(config)}

    def step(self, number: int, batch: HostBatch) -> float:  # noqa: D102
        return self._runner.run(number, Batch(jnp.asarray(batch.x), jnp.asarray(batch.keep)))

    def trained(self, steps: int, cache: Cache) -> Run:
        """The run after its last step."""
        return Run(self._runner.config, steps, self._runner.state.params, cache)


class Results:
    """The file of what was measured; every line has a key and what was found.

    Raises:
        UserError: the file is of other rows, another shape or another machine.
    """

    def __init__(self, path: Path, subject: Record) -> None:
        self._path, lines = (
            path,
            path.read_text(encoding="utf-8").splitlines() if path.exists() else [],
        )
        self._lines: list[Record] = []
        with contextlib.suppress(ValueError):  # a line that was cut by a kill, the last one
            self._lines.extend(json.loads(line) for line in lines)
        if self._lines and self._lines[0] != subject:
            raise UserError(f"{path} is of {self._lines[0]}; expected {subject}, or another --out")
        self._lines = self._lines or [subject]
        path.write_text("".join(json.dumps(line) + "\n" for line in self._lines), encoding="utf-8")

    def get(self, key: Record, make: Callable[[], Record]) -> Record:
        """What was found for ``key``, which is measured if it was not yet."""
        for line in self._lines[1:]:
            if line["key"] == key:
                return dict(line["found"])
        print(", ".join(f"{name} {value}" for name, value in key.items()), file=sys.stderr)
        found = make()
        self._lines.append({"key": key, "found": found})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._lines[-1]) + "\n")
        return found


@dataclass(frozen=True)
class Bench:
    """What all SAEs have in common."""

    args: argparse.Namespace
    cache: Cache
    peers: Peers
    results: Results
    model: Model

    def config(self, preset: str, steps: int) -> Config:
        """The settings of a run of ours."""
        return config_of(self.args, preset, steps)

    def settings(self, lr: float, steps: int) -> Record:
        """The settings of a peer."""
        args, d_in = self.args, self.cache.manifest.d_model
        shape = {"d_in": d_in, "d_sae": args.features, "k": args.k, "batch": args.rows}
        return {**shape, "lr": lr, "steps": steps, "idle": args.idle}

    def train(self, learners: Mapping[str, Learner], steps: int) -> dict[str, float]:
        """Mean seconds of a step of each; they take turns on the same rows."""
        times: dict[str, list[float]] = {name: [] for name in learners}
        with self._batches() as batches, Progress(steps, unit="steps") as progress:
            for number in range(1, steps + 1):
                _, (batch,) = next(batches)
                for name, learner in learners.items():
                    seconds = learner.step(number, batch)
                    if number not in learner.untimed:
                        times[name].append(seconds)
                progress.update(number)
            progress.finish(steps)
        return {name: float(np.mean(values)) for name, values in times.items()}

    def _batches(self) -> Any:
        return make_stream([self.config("plain", 1)], self.cache).prefetch(0)

    def peer(self, name: str, lr: float, steps: int) -> Record:
        """A library's run at a rate."""
        settings = self.settings(lr, steps)

        def run() -> Record:
            seconds = self.train({name: Peer(self.peers, name, settings)}, steps)[name]
            self.peers.save(name, self.folder(name, lr, steps))
            try:
                found = self.measure(self.foreign(name, lr, steps))
            except UserError as error:  # it diverged
                print(f"{error}; it counts as having explained nothing", file=sys.stderr)
                found = {"variance_explained": float("-inf")}
            return {"seconds": seconds, **found}

        return self.results.get({"peer": name, **settings}, run) | {"name": name, "lr": lr}

    def folder(self, name: str, lr: float, steps: int) -> Path:
        """Where a peer's SAE is written."""
        return Path(self.args.out) / "peers" / f"{name}-{lr:g}-{steps}-{self.args.idle}"

    def foreign(self, name: str, lr: float, steps: int) -> Run:
        """A peer's SAE as a run of ours."""
        folder = self.folder(name, lr, steps)
        sae, data = read_foreign(str(folder), name), self.config("plain", 1).data
        place = (data.layer, data.site, data.skip_positions, data.max_norm)
        origin = Imported(str(folder), self.cache.url, self.cache.digest, *place)
        config = imported_config(sae, origin, folder)
        return Run(config, steps, imported_params(sae), self.cache)

    def measure(self, run: Run) -> Record:
        """What a run reconstructs of the held-out rows."""
        data = run.config.data
        batches = rows_in_order(self.cache, data.input_site, SPLIT, data.mask, batch=BATCH)
        found = evaluate_rows(run.params, run.config.sae, batches, ()).unmasked
        dead = {"dead": found.dead_fraction, "heldout_rows": found.rows}
        return {"variance_explained": found.variance_explained, **dead}

    def patched(self, run: Run) -> Record:
        """What the model predicts with a run's reconstructions in place of the unmasked rows."""
        found = measure_lm(run, self.model, SPLIT, self.args.lm_windows)
        effect = found.patched["unmasked_rows"]["sae"]
        return {"kl": effect.kl, "ce": effect.ce, "model_ce": found.ce}

    def best_rate(self, name: str) -> Record:
        """A library's run at its best rate, patched, with what was explained at every rate."""
        steps = self.args.steps
        runs = {lr: self.peer(name, lr, steps) for lr in self.args.rates}
        rates = {str(lr): found["variance_explained"] for lr, found in runs.items()}
        lr = max(runs, key=lambda lr: float(runs[lr]["variance_explained"]))
        key = {"patched": name, **self.settings(lr, steps), "windows": self.args.lm_windows}
        patched = self.results.get(key, lambda: self.patched(self.foreign(name, lr, steps)))
        return runs[lr] | patched | {"rates": rates}

    def best_and_ours(self, best: Record) -> list[Record]:
        """The best peer, and ours beside it and for as long as it takes."""
        args, name, names = self.args, best["name"], self.args.presets
        steps = args.steps
        configs = {preset: self.config(preset, steps) for preset in names}
        recipes = {preset: recipe_digest(config) for preset, config in configs.items()}
        settings = self.settings(best["lr"], steps)
        key = {"beside": name, **settings, "recipes": recipes, "windows": args.lm_windows}
        beside = self.results.get(key, lambda: self.beside(name, settings))
        peer_seconds = beside["seconds"][name]
        timed = {"seconds": peer_seconds, "equal_wall": best["variance_explained"]}
        records = [best | timed | {"equal_steps": steps}]
        for preset in names:
            seconds = beside["seconds"][preset]
            longer = equal_steps(steps, peer_seconds, seconds)
            key = {"alone": preset, "recipe": recipes[preset], "steps": longer}
            equal = self.results.get(key, partial(self.alone, preset, longer))
            wall = {"equal_wall": equal["variance_explained"], "equal_steps": longer}
            lr = peak_lr(configs[preset].optim, args.features)
            head = {"name": preset, "lr": lr, "seconds": seconds}
            records.append({**head, **beside[preset], **wall})
        return records

    def beside(self, name: str, settings: Record) -> Record:
        """All presets in turns with the best peer."""
        steps, presets = self.args.steps, self.args.presets
        ours = {each: Ours(self.config(each, steps), self.cache) for each in presets}
        seconds = self.train({name: Peer(self.peers, name, settings), **ours}, steps)
        found: Record = {"seconds": seconds}
        for each, learner in ours.items():
            run = learner.trained(steps, self.cache)
            found[each] = {**self.measure(run), **self.patched(run)}
        return found

    def alone(self, preset: str, steps: int) -> Record:
        """One preset for so many steps."""
        ours = Ours(self.config(preset, steps), self.cache)
        seconds = self.train({preset: ours}, steps)[preset]
        return {"seconds": seconds, **self.measure(ours.trained(steps, self.cache))}

    def record(self) -> Record:
        """The record that the table is made of."""
        peers = [self.best_rate(name) for name in self.args.libraries]
        best = best_peer(peers)
        others = [peer for peer in peers if peer is not best]
        keys = ("layer", "features", "k", "rows", "steps", "idle", "set")
        shape = {key: getattr(self.args, key) for key in keys}
        model = {"model": self.cache.manifest.model.id, "text": self.cache.manifest.text.source}
        train = {"train_rows": self.cache.rows("train"), "d_in": self.cache.manifest.d_model}
        head = {"bench": "quality", **describe(), **model, **train, **shape}
        return {**head, "best_peer": best["name"], "saes": [*others, *self.best_and_ours(best)]}


def best_peer(peers: list[Record]) -> Record:
    """The fastest of those whose variance explained is within NEAR of the most."""
    most = max(peer["variance_explained"] for peer in peers)
    near = [peer for peer in peers if peer["variance_explained"] >= most - NEAR]
    return min(near, key=lambda peer: float(peer["seconds"]))


def equal_steps(steps: int, peer_seconds: float, our_seconds: float) -> int:
    """Steps of ours that take as long as ``steps`` of a peer's, for the seconds of a step."""
    return max(1, round(steps * peer_seconds / our_seconds))


def recipe_digest(config: Config) -> str:
    """A short digest of the settings that decide what a run of so many steps finds."""
    left = ("data.cache", "run.out", "run.steps")
    settings = {name: value for name, value in flatten(config).items() if name not in left}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def config_of(args: argparse.Namespace, preset: str, steps: int) -> Config:
    """The settings of a run of ours; UserError for a wrong --set, or one that peers lack."""
    for setting in args.set:
        name = setting.split("=")[0].replace("-", "_")
        if name.startswith(("data.", "mesh.")) or name in ("sae.d_sae", "sae.k"):
            raise UserError(f"--set {setting} is of ours alone; expected the bench's own option")
    recipe = PRESETS[preset]()
    config = replace(
        recipe,
        data=DataConfig(cache=args.cache, layer=args.layer, batch=args.rows),
        sae=replace(recipe.sae, d_sae=args.features, k=args.k),
        mesh=MeshConfig(data=1, model=1),
        run=RunConfig(out="unused", steps=steps),
    )
    return parse_overrides(config, [f"--{each}" for each in args.set], "quality.py")


@contextlib.contextmanager
def opened(args: argparse.Namespace) -> Iterator[Bench]:
    """The bench, with the peers' process, which ends with it."""
    for preset in args.presets:
        cache, _, _ = open_inputs([config_of(args, preset, args.steps)])
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    subject = {"cache": cache.digest, "layer": args.layer, "machine": describe()["device"]}
    results = Results(out / "results.jsonl", subject)
    model = open_model(args.lm or str(fetch_smollm2()), "auto", cache)
    peers = Peers(args.peers)
    try:
        if missing := set(args.libraries) - set(peers.names):
            raise UserError(f"{args.peers} lacks {', '.join(sorted(missing))} (see above)")
        yield Bench(args, cache, peers, results, model)
    finally:
        peers.close()


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--cache", required=True, help="activation cache")
    add("--layer", type=int, required=True)
    add("--peers", required=True, help="Python of the peers' environment")
    add("--out", required=True, help="directory for results and the peers' SAEs")
    libraries = ["sparsify", "sae_lens", "dictionary_learning"]
    add("--libraries", nargs="+", choices=libraries, default=libraries)
    add("--rates", nargs="+", type=float, default=[1e-3, 2e-3, 4e-3, 8e-3])
    add("--idle", type=int, default=100, help="steps without firing that make a feature dead")
    add("--presets", nargs="+", choices=list(PRESETS), default=["plain", "default"])
    add("--set", nargs="+", default=[], help="settings of ours, as sae.decoder_init=random")
    add("--features", type=int, default=4096)
    add("--k", type=int, default=32)
    add("--rows", type=int, default=1024, help="rows of a batch")
    add("--steps", type=int, default=300)
    add("--lm", help="the cache's model (default: the quickstart's)")
    add("--lm-windows", type=int, default=32, help="windows that are patched")
    add("--into", type=Path, help="a Markdown file with the lines MARKS")
    args = parser.parse_args()
    reuse_memory()
    try:
        with opened(args) as bench:
            made = quality([bench.record()])
    except UserError as error:
        parser.error(str(error))
    print(made)
    (Path(args.out) / "table.md").write_text(made + "\n", encoding="utf-8")
    if args.into is not None:
        put_between(args.into, MARKS, made)


if __name__ == "__main__":
    main()
