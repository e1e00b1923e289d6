"""Killing a sweep's workers at a moment when one of its runs has a checkpoint to go on from."""

import json
import os
import signal
import time
from pathlib import Path

from vasae_jax.training.digests import kept_steps
from vasae_jax.utils.lock import OWNER


def wait_for_half_done(out: Path, steps: int, seen=(), seconds=180.0) -> tuple[Path, int]:
    """A run under ``out`` that has a checkpoint, but not its last; and the process that owns it.

    Runs of the processes ``seen`` are passed over.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for file in (out / "runs").glob(f"*/{OWNER}"):
            try:
                process = json.loads(file.read_text(encoding="utf-8"))["process"]
            except (OSError, ValueError):  # it has just gone, or is just coming
                continue
            kept = kept_steps(file.parent)
            if process not in seen and kept and kept[-1] < steps:
                return file.parent, process
        time.sleep(0.005)
    raise AssertionError(f"no run of {out} was half done in {seconds} s")


def kill_half_done(out: Path, steps: int, seen=()) -> int:
    """Kill the process of a half-done run, as the system would; returns its number."""
    _, process = wait_for_half_done(out, steps, seen)
    os.kill(process, signal.SIGKILL)
    return process
