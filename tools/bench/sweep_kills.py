#!/usr/bin/env python3
"""A grid of 64 runs undisturbed, on Ray with a worker killed twice, and as 4 jobs, two killed.

    python tools/bench/sweep_kills.py --cache CACHE --layers 1,3 --json

Needs Ray (pip install 'vasae-jax[ray]'). A small cache will do: what is measured is that the three
tables are equal and that killed packs went on. ``--json`` prints one object:

    runs, done            runs of the grid, and those that are done in all three tables
    ray_equal, jobs_equal whether each table equals that of the undisturbed sweep in every figure
    killed                steps at which the killed processes' runs had their last checkpoint
    went_on               runs that went on after a step, on Ray and as jobs, by their events.jsonl
    began_twice           runs that began at the first step more than once
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from vasae_jax.sweep.points import read_members
from vasae_jax.sweep.table import Row, table
from vasae_jax.training.digests import kept_steps
from vasae_jax.training.events import EVENTS
from vasae_jax.utils.lock import OWNER

STEPS, JOBS = 80, 4
GRID = """
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.sweep import Sweep, grid

base = Config(
    data=DataConfig(cache={cache!r}, batch=32, readers=4, shuffle_chunks=2, seed=0),
    sae=SAEConfig(d_sae=64),
    mesh=MeshConfig(data=1),
    run=RunConfig(steps={steps}, log_every=1, checkpoint_every=10),
)
points = grid.product(
    grid.axis("anchor.weight", 0.5, 1.0, 2.0, 4.0),
    grid.axis("sae.k", 2, 3, 4, 6),
    grid.axis("run.seed", 0, 1),
    grid.axis("data.layer", *{layers}),
)
sweep = Sweep(base, points, out={out!r})
"""
"""Of two layers: 64 points."""


def main() -> None:
    """Run the three and print."""
    args = _parser().parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found = measure(args, place, chance)
    print(json.dumps(found) if args.json else found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cache", required=True)
    add("--layers", default="1,3")
    add("--seed", type=int, default=0, help="of the moments of the kills")
    add("--json", action="store_true")
    return parser


def measure(args: argparse.Namespace, place: Path, chance: random.Random) -> dict[str, Any]:
    """The object that ``--json`` prints."""
    layers = tuple(int(part) for part in args.layers.split(","))

    def file(name: str) -> Path:
        path = place / f"{name}.py"
        out = str(place / name)
        path.write_text(
            GRID.format(cache=args.cache, steps=STEPS, layers=layers, out=out), encoding="utf-8"
        )
        return path

    _finish([_start(file("whole"))])
    killed = _on_ray(file("ray"), place / "ray", chance)
    killed += _as_jobs(file("jobs"), place / "jobs", chance)
    tables = {name: _figures(place / name) for name in ("whole", "ray", "jobs")}
    begins = [
        _trained_after(run) for name in ("ray", "jobs") for run in (place / name).glob("runs/*")
    ]
    return {
        "runs": len(tables["whole"]),
        "done": sum(
            all(rows[n]["status"] == "done" for rows in tables.values())
            for n in range(len(tables["whole"]))
        ),
        "ray_equal": tables["ray"] == tables["whole"],
        "jobs_equal": tables["jobs"] == tables["whole"],
        "killed": killed,
        "went_on": sum(any(begin) for begin in begins),
        "began_twice": sum(begin.count(0) > 1 for begin in begins),
    }


def _on_ray(file: Path, out: Path, chance: random.Random) -> list[int]:
    job = _start(file, "--on", "ray", "--max-members", "8")
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.extend(_kill(out, chance) for _ in range(2)))
    killer.start()
    _finish([job])
    killer.join()
    return killed


def _as_jobs(file: Path, out: Path, chance: random.Random) -> list[int]:
    jobs = [_start(file, "--shard", f"{part}/{JOBS}") for part in range(JOBS)]
    killed = [_kill(out, chance, {job.pid for job in jobs}) for _ in range(2)]
    for job in jobs:
        job.communicate()
    lost = [part for part, job in enumerate(jobs) if job.returncode]
    _finish([_start(file, "--shard", f"{part}/{JOBS}") for part in lost])
    return killed


def _trained_after(run: Path) -> list[int]:
    """The step that each start of a run trained after; 0 where it began anew."""
    lines = [json.loads(line) for line in (run / EVENTS).read_text(encoding="utf-8").splitlines()]
    return [line["after"] for line in lines if line["event"] == "train"]


def _start(file: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vasae_jax.cli.main", "sweep", str(file), *arguments]
    environment = os.environ | {"RAY_DEDUP_LOGS": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _finish(jobs: list[subprocess.Popen[str]]) -> None:
    said = "".join(job.communicate()[1] for job in jobs)
    if any(job.returncode for job in jobs):
        raise SystemExit(said)


def _kill(out: Path, chance: random.Random, among: set[int] | None = None) -> int:
    """Kill a process at a random moment, half way in its runs; their least last checkpoint.

    Each run of its pack has a checkpoint then: before, it would rightly begin anew.
    """
    time.sleep(3 * chance.random())
    while True:
        for process, kept in _half_done(out).items():
            if among is None or process in among:
                time.sleep(0.5 * chance.random())
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(process, signal.SIGKILL)
                    if among is not None:
                        among.discard(process)
                    return kept
        time.sleep(0.005)


def _half_done(out: Path) -> dict[int, int]:
    """Processes whose runs all have a checkpoint and none the last: the least of their steps."""
    found: dict[int, list[int]] = {}
    for file in (out / "runs").glob(f"*/{OWNER}"):
        with contextlib.suppress(OSError, ValueError):  # it has just gone, or is just coming
            process = json.loads(file.read_text(encoding="utf-8"))["process"]
            found.setdefault(process, []).append((kept_steps(file.parent) or [0])[-1])
    return {process: min(steps) for process, steps in found.items() if 0 < min(steps) <= STEPS // 2}


def _figures(out: Path) -> list[Row]:
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in table(read_members(out))
    ]


if __name__ == "__main__":
    main()
