#!/usr/bin/env python3
"""Train one run through random faults; it must end bit-equal to a run that had none.

    python tools/soak.py --out /tmp/soak                              # 60 faults in 6000 steps
    python tools/soak.py --out /tmp/soak --seed 7 --faults 6 --steps 600

The run is started again and again as a user starts it, and each time one fault is done to it, drawn
with its moment from the seed:

    kill         SIGKILL
    stop         SIGTERM
    twice        SIGTERM, and again within a tenth of a second
    full disk    no file can grow beyond so many bytes
    cache        a bit of a file of the cache is flipped, and mended after the start
    checkpoint   a bit of the last checkpoint is flipped; the start after falls back

A start may end as its fault allows and in no other way: a refusal is one sentence with code 2,
and no traceback is ever shown. When all faults are done the run is left to end, and every array of
its last checkpoint and every logged loss are compared with those of the run without faults.
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
from vasae_jax.cache.vocab import Vocab
from vasae_jax.training.checkpoint import Checkpoints, load_params

D, VOCAB, ROWS = 16, 64, 4000
LOG_EVERY, SAVE_EVERY = 10, 100
PATIENCE = 120.0
"""Seconds in which a start must do something: a hang is a failure too."""


@dataclass(frozen=True)
class Soak:
    """Where the run with faults and its cache lie, and what its moments are drawn from."""

    home: Path
    steps: int
    lines: int
    """Lines of the log up to which a start is let go before its fault."""
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
    said: str
    """All that it wrote to stderr."""

    @property
    def sentence(self) -> str:
        """Its last line."""
        return self.said.strip().rpartition("\n")[2]

    def expect(self, codes: set[int], words: str = "") -> "Ended":
        """Raise SystemExit unless it ended with one of ``codes`` as it should."""
        refused = self.code != 2 or (self.sentence.startswith("vasae: ") and words in self.sentence)
        if self.code not in codes or not refused or "Traceback" in self.said:
            raise SystemExit(f"code {self.code}, expected one of {codes}; it said:\n{self.said}")
        return self


def start(soak: Soak, out: Path, *more: str, most: int = -1) -> subprocess.Popen[str]:
    """The run's command, whose files cannot grow beyond ``most`` bytes (-1: any)."""
    settings = {
        "data.cache": soak.cache, "data.layer": 1, "data.batch": 64, "data.readers": 4,
        "data.shuffle_chunks": 2, "sae.d-sae": 64, "sae.k": 4, "run.out": out, "run.steps": soak.steps,
        "run.log-every": LOG_EVERY, "run.checkpoint-every": SAVE_EVERY, "mesh.data": 1,
        "anchor.search-fraction": 0.5,
    }  # fmt: skip
    given = [f"--{name}={value}" for name, value in settings.items()]
    limit = (
        None if most is None else partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most,) * 2)
    )
    return subprocess.Popen(
        [sys.executable, "-m", "vasae_jax.cli.main", "train", *given, *more],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": str(soak.home / "programs")},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=limit,
    )


def ended(process: "subprocess.Popen[str]") -> Ended:
    """Wait for its end."""
    _, said = process.communicate(timeout=PATIENCE)
    return Ended(process.returncode, said)


def lines(run: Path) -> int:
    """Lines in the log of a run."""
    file = run / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def let_go(soak: Soak, process: "subprocess.Popen[str]", least: int = 0) -> None:
    """Wait for the moment of a fault: some lines later, or sooner if the start ends by itself."""
    before, more = lines(soak.run), least + soak.draw.randrange(soak.lines)
    end = time.monotonic() + PATIENCE
    while lines(soak.run) < before + more and process.poll() is None:
        if time.monotonic() > end:
            raise SystemExit(f"no step in {PATIENCE:.0f} s")
        time.sleep(0.002)
    time.sleep(soak.draw.random() * 0.1)


def until_killed(soak: Soak, *more: str, most: int = -1, least: int = 0) -> Ended:
    """A start that is killed at a moment of the seed's, unless it ended before."""
    process = start(soak, soak.run, *more, most=most)
    let_go(soak, process, least)
    process.kill()
    return ended(process)


def kill(soak: Soak) -> Ended:
    """SIGKILL at any moment."""
    return until_killed(soak).expect({0, -signal.SIGKILL})


def stop(soak: Soak, again: bool = False) -> Ended:
    """SIGTERM; before the first step it ends the process as it does any other."""
    process = start(soak, soak.run)
    let_go(soak, process)
    process.terminate()
    if again:
        time.sleep(soak.draw.random() * 0.1)
        process.terminate()
    return ended(process).expect({0, 128 + signal.SIGTERM, -signal.SIGTERM})


def full_disk(soak: Soak) -> Ended:
    """Files that cannot grow, down to the first that is written; a large limit stops nothing."""
    most = int(10 ** soak.draw.uniform(1, 4))
    found = until_killed(soak, most=most)
    return found.expect({0, 2, -signal.SIGKILL}, "expected a writable place")


def damaged_cache(soak: Soak) -> Ended:
    """A flipped bit where rows are read; what is not read of it is no reason to stop."""
    file = soak.draw.choice(sorted(path for path in soak.cache.rglob("*") if path.is_file()))
    whole = file.read_bytes()
    flip(soak, file)
    found = until_killed(soak).expect({0, 2, -signal.SIGKILL}, "expected")
    file.write_bytes(whole)
    return found


def damaged_checkpoint(soak: Soak) -> Ended:
    """A flipped bit in the last checkpoint, where there is another before it."""
    steps = sorted(int(path.name) for path in (soak.run / "checkpoints").glob("[0-9]*[0-9]"))
    if len(steps) > 1:
        last = soak.run / "checkpoints" / str(steps[-1])
        flip(soak, soak.draw.choice(sorted(path for path in last.rglob("*") if path.is_file())))
    # After a line it has resumed: where the bit was flipped nothing is read.
    found = until_killed(soak, least=1).expect({0, 2, -signal.SIGKILL}, "is damaged")
    if found.code == 2:
        until_killed(soak, "--run.fall-back", least=1).expect({0, -signal.SIGKILL})
    return found


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
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    each = max(1, 2 * given.steps // (LOG_EVERY * given.faults))
    soak = Soak(given.out, given.steps, each, random.Random(given.seed))
    make_cache(soak.cache)
    ended(start(soak, soak.home / "whole")).expect({0})
    codes: Counter[int] = Counter()
    for number, kind in zip(range(given.faults), kinds(soak.draw), strict=False):
        found = FAULTS[kind](soak)
        codes[found.code] += 1
        print(f"{number:4} {kind:10} code {found.code:4}  {found.sentence[:150]}", flush=True)
    ended(start(soak, soak.run)).expect({0})
    compare(soak)
    said = ", ".join(f"{count} with code {code}" for code, count in sorted(codes.items()))
    print(f"{given.steps} steps through {given.faults} faults ({said}): bit-equal")


def kinds(draw: random.Random) -> Iterator[str]:
    """Kinds of faults without end: all of them in some order, and all again in another."""
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
    with CacheWriter(
        str(place), plan, embedding=embedding, unembedding=None, final_norm=norm, vocab=vocab
    ) as writer:
        for split, rows, first in (("train", ROWS, 0), ("heldout", 100, 10**6)):
            ids = np.arange(rows, dtype=np.int32)
            tokens = rng.integers(0, VOCAB, rows).astype(np.int32)
            acts = embedding[tokens] + 0.3 * rng.standard_normal((rows, D), np.float32)
            rows_of = {1: acts.astype(ml_dtypes.bfloat16)}
            writer.append(split, tokens, ids % 20, first + ids // 40, rows_of)
        writer.finish()


def compare(soak: Soak) -> None:
    """Raise SystemExit unless both runs ended alike, and each start has its end in events.jsonl."""
    one, other = (everything(run) for run in (soak.run, soak.home / "whole"))
    if one[1] != other[1]:
        raise SystemExit("the logged losses differ")
    for a, b in zip(*map(jax.tree.leaves, (one[0], other[0])), strict=True):
        if not np.array_equal(a, b):
            raise SystemExit("the last checkpoints differ")
    events = [json.loads(line) for line in (soak.run / "events.jsonl").read_text().splitlines()]
    around = [event["event"] for event in events if event["event"] != "train"]
    if around != ["start", "end"] * (len(around) // 2):
        raise SystemExit("events.jsonl lacks the start or the end of a start")


def everything(run: Path) -> tuple[object, list[tuple[int, float]]]:
    """The arrays of a run's last checkpoint, and its logged losses by step."""
    step, params = load_params(run)
    with Checkpoints(run) as checkpoints:
        state = {"step": step, "params": params, "rest": checkpoints.raw(step)}
    log = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return state, [(line["step"], line["loss"]) for line in log if "loss" in line]


if __name__ == "__main__":
    main()
