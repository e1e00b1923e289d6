#!/usr/bin/env python3
"""A grid of 64 runs undisturbed, on Ray with a worker killed twice, and as 4 jobs, two killed.

    python tools/bench/sweep_kills.py --cache CACHE --layers 1,3 --json

Needs Ray (pip install 'vasae-jax[ray]'). A small cache will do: what is measured is that the three
tables are equal and that killed packs went on. ``--json`` prints one object:

    runs, done            runs of the grid, and those that are done in all three tables
    ray_equal, jobs_equal whether each table equals that of the undisturbed sweep in every figure
    killed                steps at which the killed processes' runs had their last checkpoint
    resumed               packs that said that they go on after a step, on Ray and as jobs
    began                 packs that began from the start: as many as without a kill, or those
                          whose runs had no checkpoint yet
    ray_packs, jobs_packs packs of each
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from vasae_jax.sweep.points import read_members
from vasae_jax.sweep.results import Row, table
from vasae_jax.sweep.standing import kept_steps
from vasae_jax.system.owner import OWNER

STEPS, JOBS = 80, 4
GRID = """
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.sweep import Sweep, grid

base = Config(
    data=DataConfig(cache={cache!r}, batch=32, lanes=4, window=2, seed=0),
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
    given = _parser().parse_args()
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found = measure(given, place, chance)
    print(json.dumps(found) if given.json else found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cache", required=True)
    add("--layers", default="1,3")
    add("--seed", type=int, default=0, help="of the moments of the kills")
    add("--json", action="store_true")
    return parser


def measure(given: argparse.Namespace, place: Path, chance: random.Random) -> dict[str, Any]:
    """The object that ``--json`` prints."""
    layers = tuple(int(part) for part in given.layers.split(","))

    def file(name: str) -> Path:
        path = place / f"{name}.py"
        out = str(place / name)
        path.write_text(GRID.format(cache=given.cache, steps=STEPS, layers=layers, out=out))
        return path

    _finish([_start(file("whole"))])
    ray_said, killed = _on_ray(file("ray"), place / "ray", chance)
    jobs_said, more = _as_jobs(file("jobs"), place / "jobs", chance)
    tables = {name: _figures(place / name) for name in ("whole", "ray", "jobs")}
    said = ray_said + jobs_said
    return {
        "runs": len(tables["whole"]),
        "done": sum(
            all(rows[n]["status"] == "done" for rows in tables.values())
            for n in range(len(tables["whole"]))
        ),
        "ray_equal": tables["ray"] == tables["whole"],
        "jobs_equal": tables["jobs"] == tables["whole"],
        "killed": killed + more,
        "resumed": len(re.findall("resuming the pack after step", said)),
        "began": len(re.findall("a pack of", said)) - len(re.findall("resuming the pack", said)),
        "ray_packs": len(re.findall("a pack is trained", ray_said)),
        "jobs_packs": JOBS,
    }


def _on_ray(file: Path, out: Path, chance: random.Random) -> tuple[str, list[int]]:
    job = _start(file, "--on", "ray", "--max-members", "8")
    killed: list[int] = []
    killer = threading.Thread(target=lambda: killed.extend(_kill(out, chance) for _ in range(2)))
    killer.start()
    said = _finish([job])
    killer.join()
    return said, killed


def _as_jobs(file: Path, out: Path, chance: random.Random) -> tuple[str, list[int]]:
    jobs = [_start(file, "--shard", f"{part}/{JOBS}") for part in range(JOBS)]
    killed = [_kill(out, chance, {job.pid for job in jobs}) for _ in range(2)]
    said = "".join(job.communicate()[1] for job in jobs)
    lost = [part for part, job in enumerate(jobs) if job.returncode]
    again = [_start(file, "--shard", f"{part}/{JOBS}") for part in lost]
    return said + _finish(again), killed


def _start(file: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vasae_jax.cli.main", "sweep", str(file), *arguments]
    environment = os.environ | {"RAY_DEDUP_LOGS": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _finish(jobs: list[subprocess.Popen[str]]) -> str:
    said = "".join(job.communicate()[1] for job in jobs)
    if any(job.returncode for job in jobs):
        raise SystemExit(said)
    return said


def _kill(out: Path, chance: random.Random, among: set[int] | None = None) -> int:
    """Kill, at a random moment, a process whose run is half done; the run's last checkpoint."""
    time.sleep(3 * chance.random())
    while True:
        for file in sorted((out / "runs").glob(f"*/{OWNER}")):
            try:
                process = json.loads(file.read_text())["process"]
                kept = kept_steps(file.parent)
            except (OSError, ValueError):  # it has just gone, or is just coming
                continue
            if kept and kept[-1] < STEPS and (among is None or process in among):
                os.kill(process, signal.SIGKILL)
                if among is not None:
                    among.discard(process)
                return kept[-1]
        time.sleep(0.005)


def _figures(out: Path) -> list[Row]:
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in table(read_members(out))
    ]


if __name__ == "__main__":
    main()
