#!/usr/bin/env python3
"""What a pack saves against its runs one after the other, in bytes read and in wall time.

    python tools/bench/sweep.py --cache out/quickstart/cache --layer 15 --json
    python tools/bench/sweep.py --cache out/quickstart/cache --layers 10,15,20 --only bytes
    python tools/bench/sweep.py --only pod --json                   # needs libtpu, no TPU

``bytes`` counts what is asked of the cache: by one run, by a pack of ``--runs`` on its layer, and
by a pack over ``--layers``. ``wall`` trains ``--runs`` runs in processes of their own, one after
the other, then the same runs as one pack in one process, from start to end: imports, compilation
and the last checkpoint are in it. Run it on a quiet machine. ``pod`` compiles a member's step on
one device of v5e:4x4 and a round of 16 members with ``member=16`` for all of it.

``--json`` prints one object:

    one_bytes, pack_bytes, pack_over_one          bytes of a run, of a pack, and their ratio
    layers_bytes, layers_over_one                 the same for a pack over several layers
    chunks, chunks_read_more_often                chunks of the layers' rows, and those that the
                                                  pack reads more often than one run does its own
    alone_s, pack_s, pack_over_alone              wall time
    alone_step_s, pack_step_s                     seconds a run and step, between the logged lines
    step_share                                    share of the pack's wall time that is its steps
    member_mfu, pack_mfu, collectives             by the compiler's cost model: of one member on one
                                                  device, of all over all; what is sent in a step
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from vasae_jax.cache import Cache, RowArray
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.config.overrides import flatten

POD, MEMBERS = "v5e:4x4", 16


def main() -> None:
    """Measure and print."""
    given = _parser().parse_args()
    parts = given.only or ["bytes", "wall", "pod"]
    found: dict[str, Any] = {}
    if "pod" in parts:  # before JAX has looked for devices
        found |= pod()
    if "bytes" in parts:
        found |= count_bytes(given)
    if "wall" in parts:
        found |= wall(given)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<24} {value}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cache", default="out/quickstart/cache")
    add("--layer", type=int, default=15)
    add("--layers", default="10,15,20", help="of the pack over several layers")
    add("--runs", type=int, default=8)
    add("--features", type=int, default=2048)
    add("--steps", type=int, default=100)
    add("--batch", type=int, default=1024)
    add("--only", nargs="+", choices=("bytes", "wall", "pod"))
    add("--json", action="store_true")
    return parser


def configs(given: argparse.Namespace, layers: list[int], out: Path) -> list[Config]:
    """``--runs`` runs that differ in lambda, on these layers in turn."""
    base = Config(
        data=DataConfig(cache=given.cache, batch=given.batch, seed=0),
        sae=SAEConfig(d_sae=given.features),
        mesh=MeshConfig(data=1),
        run=RunConfig(steps=given.steps, log_every=10, checkpoint_every=given.steps),
    )
    return [
        replace(
            base,
            data=replace(base.data, layer=layers[number % len(layers)]),
            anchor=replace(base.anchor, weight=0.5 * (number + 1)),
            run=replace(base.run, out=str(out / str(number))),
        )
        for number in range(given.runs)
    ]


def count_bytes(given: argparse.Namespace) -> dict[str, Any]:
    """What streams of one run and of packs ask of the cache for an epoch of one layer's rows."""
    cache = Cache.open(given.cache)
    layers = [int(part) for part in given.layers.split(",")]
    chunk, rows = cache.manifest.chunk_rows, cache.rows("train")
    one, once = _read(given, cache, [given.layer])
    pack, _ = _read(given, cache, [given.layer] * given.runs)
    several, reads = _read(given, cache, layers)
    usual = {start: n for (_, start), n in once.items()}
    return {
        "one_bytes": one,
        "pack_bytes": pack,
        "pack_over_one": round(pack / one, 4),
        "layers_bytes": several,
        "layers_over_one": round(several / one, 4),
        "chunks": -(-rows // chunk) * len(layers),
        "chunks_read_more_often": sum(n > usual[start] for (_, start), n in reads.items()),
    }


def _read(
    given: argparse.Namespace, cache: Cache, layers: list[int]
) -> tuple[int, Counter[tuple[str, int]]]:
    """Bytes that a pack on ``layers`` asks for in one epoch of its steps, and reads by chunk.

    A lane reads its next window ahead, so that a little of the next epoch is in it.
    """
    from vasae_jax.training.inputs import make_stream, open_inputs

    asked: Counter[tuple[str, int]] = Counter()
    total, real = 0, RowArray.read_into

    def counting(array: RowArray, start: int, stop: int, out: Any) -> Any:
        nonlocal total
        if len(array.shape) == 2:
            total += out.nbytes
            asked[array.name, start] += 1
        return real(array, start, stop, out)

    RowArray.read_into = counting  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as out:
            wanted = replace_runs(given, len(layers))
            runs = configs(wanted, layers, Path(out))
            stream = make_stream(runs, open_inputs(runs)[0])
            for step in range(cache.rows("train") // given.batch - 1):
                stream.batches(step)
    finally:
        RowArray.read_into = real  # type: ignore[method-assign]
    return total, asked


def replace_runs(given: argparse.Namespace, runs: int) -> argparse.Namespace:
    """The arguments with another number of runs."""
    return argparse.Namespace(**{**vars(given), "runs": runs})


def wall(given: argparse.Namespace) -> dict[str, Any]:
    """Wall time of the runs one after the other, and as a pack."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        # Anchors are made once for a cache, and are in neither time.
        _train(configs(replace_runs(given, 1), [given.layer], out / "warm"), steps=1)
        alone = configs(given, [given.layer], out / "alone")
        singles = sum(_train([config]) for config in alone)
        pack = configs(given, [given.layer], out / "pack")
        together = _train(pack)
        single_step = _step_seconds(Path(alone[0].run.out))
        pack_step = _step_seconds(Path(pack[0].run.out)) / given.runs
    return {
        "alone_s": round(singles, 2),
        "pack_s": round(together, 2),
        "pack_over_alone": round(together / singles, 4),
        "alone_step_s": round(single_step, 4),
        "pack_step_s": round(pack_step, 4),
        "step_share": round(pack_step * given.runs * given.steps / together, 4),
    }


def _train(runs: list[Config], steps: int = 0) -> float:
    """Seconds of a process that trains these runs, as a user would."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", encoding="utf-8") as file:
        settings = [flatten(config) for config in runs]
        file.write(
            "from vasae_jax.config import Config\n"
            "from vasae_jax.sweep.points import apply_point\n"
            "from dataclasses import replace\n"
            "def made(point):\n"
            "    out = point.pop('run.out')\n"
            "    point = {k: v for k, v in point.items() if k not in "
            "('run.overwrite', 'run.skip_damaged')}\n"
            "    config = apply_point(Config(), point, 0)\n"
            "    return replace(config, run=replace(config.run, out=out))\n"
            f"config = [made(point) for point in {settings!r}]\n"
            "config = config if len(config) > 1 else config[0]\n"
        )
        file.flush()
        command = [sys.executable, "-m", "vasae_jax.cli.main", "train", file.name]
        command += [f"--run.steps={steps}"] if steps else []
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - began


def _step_seconds(run: Path) -> float:
    """Median seconds of a step between logged lines, the first without."""
    lines = [
        json.loads(line)
        for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    rates = sorted(line["rows_per_s"] for line in lines[1:] if "rows_per_s" in line)
    return lines[0]["rows"] / lines[0]["step"] / rates[len(rates) // 2]


def pod() -> dict[str, Any]:
    """A member on one device and 16 members over a slice, by the compiler's cost model."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    from vasae_jax.aot import Shapes, Slice, compile_program, cost_of, open_slice

    place = open_slice(POD)
    config = Config(
        sae=SAEConfig(compute_dtype="bfloat16"), mesh=MeshConfig(data=1, member=MEMBERS)
    )
    shapes = Shapes(768, 50257, 51200, config.data.batch)
    single = Slice(place.name, place.chip, place.devices[:1]).mesh(1, 1)
    one = cost_of(compile_program("step", config, shapes, single), place.chip)
    mesh = place.mesh(MEMBERS, 1)
    pack = cost_of(compile_program("pack", config, shapes, mesh), place.chip)
    useful = shapes.step_flops / place.chip.flops
    return {
        "member_mfu": round(useful / one.seconds, 4),
        "pack_mfu": round(useful / pack.seconds, 4),
        "collectives": pack.collectives,
    }


if __name__ == "__main__":
    main()
