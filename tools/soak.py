#!/usr/bin/env python3
"""Train a run through random faults; it must end bit-equal to a run without faults.

    python tools/soak.py --out /tmp/soak                              # 60 faults in 6000 steps
    python tools/soak.py --out /tmp/soak --seed 7 --faults 6 --steps 600

The run is started again and again with its command. In each start there is one fault, whose kind
and time are drawn from the seed:

    kill         SIGKILL
    stop         SIGTERM
    twice        SIGTERM, and again within a tenth of a second
    full disk    files cannot grow beyond a number of bytes
    cache        a bit of the cache is flipped, and restored after the start
    checkpoint   a bit of the last checkpoint is flipped; the next start skips it

A start may end only as its fault allows: an error is one sentence with code 2, never a traceback.
After all faults the run trains to its end. Every array of its last checkpoint and every logged loss
are then compared with those of the run without faults.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import ml_dtypes
import numpy as np

from vasae_jax.cache import CachePlan, CacheWriter, ModelInfo, TextInfo
from vasae_jax.cache.vocab import Vocab, Vocabulary
from vasae_jax.training.checkpoint import Checkpoints, load_params
from vasae_jax.training.digests import kept_steps

D, VOCAB, ROWS = 16, 64, 4000
LOG_EVERY, SAVE_EVERY = 10, 100
PATIENCE = 120.0
"""Seconds after which a start counts as hanging, which is a failure."""


@dataclass(frozen=True)
class Soak:
    """The directory of both runs, and the source of randomness."""

    home: Path
    steps: int
    lines: int
    """Most lines that a start logs before its fault."""
    draw: random.Random

    @property
    def cache(self) -> Path:
        """The cache of both runs."""
        return self.home / "cache"

    @property
    def run(self) -> Path:
        """The run with faults."""
        return self.home / "run"


@dataclass(frozen=True)
class Ended:
    """How a start ended."""

    code: int
    stderr: str

    @property
    def sentence(self) -> str:
        """The last line of stderr."""
        return self.stderr.strip().rpartition("\n")[2]

    def expect(self, codes: set[int], words: str = "") -> "Ended":
        """Raise SystemExit unless it ended with one of ``codes``, and an error with ``words``."""
        valid = self.code != 2 or (self.sentence.startswith("vasae: ") and words in self.sentence)
        if self.code not in codes or not valid or "Traceback" in self.stderr:
            raise SystemExit(f"code {self.code}, expected one of {codes}; stderr:\n{self.stderr}")
        return self


def start(soak: Soak, out: Path, *more: str, most: int = -1) -> subprocess.Popen[str]:
    """Start the run's command, whose files cannot grow beyond ``most`` bytes (-1: no limit)."""
    settings = {
        "data.cache": soak.cache, "data.layer": 1, "data.batch": 64, "data.readers": 4,
        "data.shuffle-chunks": 2, "sae.d-sae": 64, "sae.k": 4, "run.out": out,
        "run.steps": soak.steps, "run.log-every": LOG_EVERY, "run.checkpoint-every": SAVE_EVERY,
        "mesh.data": 1, "anchor.search-fraction": 0.5,
    }  # fmt: skip
    args = [f"--{name}={value}" for name, value in settings.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "vasae_jax.cli.main", "train", *args, *more],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(soak.home / "programs")},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most)),
    )


def ended(process: "subprocess.Popen[str]") -> Ended:
    """Wait for a start to end."""
    _, stderr = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, stderr)


def lines(run: Path) -> int:
    """Lines in the log of a run."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def wait(soak: Soak, process: "subprocess.Popen[str]", least: int = 0) -> None:
    """Wait for a random time: some lines of the log, or until the start ends."""
    before, more = lines(soak.run), least + soak.draw.randrange(soak.lines)
    end = time.monotonic() + PATIENCE
    while lines(soak.run) < before + more and process.poll() is None:
        if time.monotonic() > end:
            raise SystemExit(f"no step in {PATIENCE:.0f} s")
        time.sleep(0.002)
    time.sleep(soak.draw.random() * 0.1)


def until_killed(soak: Soak, *more: str, most: int = -1, least: int = 0) -> Ended:
    """A start that is killed at a random time, unless it ends before."""
    process = start(soak, soak.run, *more, most=most)
    wait(soak, process, least)
    process.kill()
    return ended(process)


def kill(soak: Soak) -> Ended:
    """SIGKILL at a random time."""
    return until_killed(soak).expect({0, -signal.SIGKILL})


def stop(soak: Soak, again: bool = False) -> Ended:
    """SIGTERM; before the first step it has its usual effect."""
    process = start(soak, soak.run)
    wait(soak, process)
    process.terminate()
    if again:
        time.sleep(soak.draw.random() * 0.1)
        process.terminate()
    return ended(process).expect({0, 128 + signal.SIGTERM, -signal.SIGTERM})


def full_disk(soak: Soak) -> Ended:
    """Files that cannot grow beyond a random size; a large limit stops nothing."""
    most = int(10 ** soak.draw.uniform(1, 4))
    result = until_killed(soak, most=most)
    return result.expect({0, 2, -signal.SIGKILL}, "expected a writable place")


def damaged_cache(soak: Soak) -> Ended:
    """A flipped bit in the cache; it may be in a part that is not read."""
    file = soak.draw.choice(sorted(path for path in soak.cache.rglob("*") if path.is_file()))
    content = file.read_bytes()
    flip(soak, file)
    result = until_killed(soak).expect({0, 2, -signal.SIGKILL}, "expected")
    file.write_bytes(content)
    return result


def damaged_checkpoint(soak: Soak) -> Ended:
    """A flipped bit in the last checkpoint, if there is one before it."""
    steps = kept_steps(soak.run)
    if len(steps) > 1:
        last = soak.run / "checkpoints" / str(steps[-1])
        flip(soak, soak.draw.choice(sorted(path for path in last.rglob("*") if path.is_file())))
    # With least=1 it is not killed before it has read the checkpoint.
    result = until_killed(soak, least=1).expect({0, 2, -signal.SIGKILL}, "is damaged")
    if result.code == 2:
        until_killed(soak, "--run.skip-damaged", least=1).expect({0, -signal.SIGKILL})
    return result


def flip(soak: Soak, file: Path) -> None:
    """Flip a bit of a file."""
    content = bytearray(file.read_bytes())
    if content:
        content[soak.draw.randrange(len(content))] ^= 1 << soak.draw.randrange(8)
        file.write_bytes(content)


FAULTS: dict[str, Callable[[Soak], Ended]] = {
    "kill": kill,
    "stop": stop,
    "twice": partial(stop, again=True),
    "full disk": full_disk,
    "cache": damaged_cache,
    "checkpoint": damaged_checkpoint,
}


def main() -> None:
    """Train both runs and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, type=Path, help="new directory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--steps", type=int, default=6000)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    each = max(1, 2 * args.steps // (LOG_EVERY * args.faults))
    soak = Soak(args.out, args.steps, each, random.Random(args.seed))
    make_cache(soak.cache)
    ended(start(soak, soak.home / "unharmed")).expect({0})
    codes: Counter[int] = Counter()
    for number, kind in zip(range(args.faults), kinds(soak.draw), strict=False):
        result = FAULTS[kind](soak)
        codes[result.code] += 1
        print(f"{number:4} {kind:10} code {result.code:4}  {result.sentence[:150]}", flush=True)
    ended(start(soak, soak.run)).expect({0})
    compare(soak)
    summary = ", ".join(f"{count} with code {code}" for code, count in sorted(codes.items()))
    print(f"{args.steps} steps through {args.faults} faults ({summary}): bit-equal")


def kinds(draw: random.Random) -> Iterator[str]:
    """Yield kinds of faults without end: all in a random order, then all in another."""
    while True:
        yield from draw.sample(list(FAULTS), len(FAULTS))


def make_cache(place: Path) -> None:
    """A cache of random rows."""
    rng = np.random.default_rng(0)
    plan = CachePlan(
        model=ModelInfo("made up", "", "gpt2", "0" * 64), sites=(1,), d_model=D, vocab_size=VOCAB,
        tied=True, context_length=20, bos=False, text=TextInfo("made up", "1" * 64),
        heldout_share=0.1, chunk_rows=64, shard_rows=256,
    )  # fmt: skip
    embedding = rng.standard_normal((VOCAB, D), np.float32)
    norm = {"kind": "rmsnorm", "eps": 1e-5, "weight": [1.0] * D, "bias": None}
    vocab = Vocab("plain", tuple(f"t{token}" for token in range(VOCAB)))
    with CacheWriter(str(place), plan, Vocabulary(embedding, None, norm, vocab)) as writer:
        for split, rows, first in (("train", ROWS, 0), ("heldout", 100, 10**6)):
            ids = np.arange(rows, dtype=np.int32)
            tokens = rng.integers(0, VOCAB, rows).astype(np.int32)
            acts = embedding[tokens] + 0.3 * rng.standard_normal((rows, D), np.float32)
            rows_of = {1: acts.astype(ml_dtypes.bfloat16)}
            writer.append(split, tokens, ids % 20, first + ids // 40, rows_of)
        writer.finish()


def compare(soak: Soak) -> None:
    """Raise SystemExit unless both runs are equal, and events.jsonl has the end of every start."""
    harmed, unharmed = (results(run) for run in (soak.run, soak.home / "unharmed"))
    if harmed[1] != unharmed[1]:
        raise SystemExit("the logged losses differ")
    for a, b in zip(*map(jax.tree.leaves, (harmed[0], unharmed[0])), strict=True):
        if not np.array_equal(a, b):
            raise SystemExit("the last checkpoints differ")
    events = [
        json.loads(line)
        for line in (soak.run / "events.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    pairs = [event["event"] for event in events if event["event"] != "train"]
    if pairs != ["start", "end"] * (len(pairs) // 2):
        raise SystemExit("events.jsonl lacks the start or the end of a start")


def results(run: Path) -> tuple[object, list[tuple[int, float]]]:
    """The arrays of a run's last checkpoint, and its logged losses by step."""
    step, params = load_params(run)
    with Checkpoints(run) as checkpoints:
        state = {"step": step, "params": params, "rest": checkpoints.raw(step)}
    log = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return state, [(line["step"], line["loss"]) for line in log if "loss" in line]


if __name__ == "__main__":
    main()
