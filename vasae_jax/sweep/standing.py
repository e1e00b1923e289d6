"""Where each run of a sweep stands, read off its directory; nothing is opened for writing."""

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vasae_jax.sweep.points import Member
from vasae_jax.system.owner import OWNER, SILENCE
from vasae_jax.training.ended import read_ended
from vasae_jax.training.rundir import METRICS

MEASURES = "eval-heldout.json"
"""What ``vasae eval`` writes, and a sweep for each of its runs."""
DONE, TRAINED, RUNNING, WAITING = "done", "trained", "running", "waiting"
"""Beside them the words of :mod:`vasae_jax.training.ended`."""


@dataclass(frozen=True)
class Standing:
    """Of one run."""

    status: str
    """DONE, TRAINED (all steps, but not measured yet), RUNNING, WAITING, diverged or stopped."""
    step: int
    """The last step that is logged or kept."""
    why: str = ""
    """Why it ended early."""
    rate: float = 0.0
    """Rows a second at the last logged step."""


def standing(member: Member) -> Standing:
    """Where a run stands; what another process is writing is taken as far as it is there."""
    path, steps = member.path, member.config.run.steps
    kept, last = kept_steps(path), _last_logged(path)
    step = max([int(last.get("step", 0)), *kept])
    rate = float(last.get("rows_per_s", 0.0))
    if kept and kept[-1] >= steps:
        return Standing(DONE if (path / MEASURES).exists() else TRAINED, steps, rate=rate)
    ended = read_ended(path)
    if ended is not None:
        return Standing(ended.how, max([0, *kept]), f"{ended.why}, at step {ended.step}")
    return Standing(RUNNING if _owned(path) else WAITING, step, rate=rate)


def kept_steps(run: Path) -> list[int]:
    """The steps of which a run has a whole checkpoint, in order."""
    found = (run / "checkpoints").glob("*")
    return sorted(int(path.name) for path in found if path.name.isdigit())


def seconds_trained(run: Path) -> float:
    """Wall time of the steps that a run has logged, the first with its compilation."""
    seconds, rows = 0.0, 0
    for record in _logged(run):
        if record.get("rows_per_s"):
            seconds += (record["rows"] - rows) / record["rows_per_s"]
            rows = record["rows"]
    return seconds


def _last_logged(run: Path) -> dict[str, Any]:
    return next((record for record in reversed(_logged(run)) if "rows_per_s" in record), {})


def _logged(run: Path) -> list[dict[str, Any]]:
    records = []
    with contextlib.suppress(FileNotFoundError):
        for line in (run / METRICS).read_text().splitlines():
            with contextlib.suppress(ValueError):  # the last one may be half written
                records.append(json.loads(line))
    return records


def _owned(run: Path) -> bool:
    """Whether the owner of a run has been heard of lately."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - (run / OWNER).stat().st_mtime < SILENCE
    return False
