"""The status of a sweep's runs, read from their directories without writing anything."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vasae_jax.sweep.points import Member
from vasae_jax.training.digests import kept_steps
from vasae_jax.training.run_dir import metrics_of
from vasae_jax.training.status import DIVERGED, read_early_end
from vasae_jax.utils.lock import is_held
from vasae_jax.utils.progress import duration
from vasae_jax.utils.shown import shown

MEASURES = "eval-heldout.json"
"""What ``vasae eval`` writes, and a sweep for each of its runs."""
DONE, TRAINED, RUNNING, WAITING = "done", "trained", "running", "waiting"
"""Of runs that have not ended early; others are DIVERGED."""
ORDER = (DONE, TRAINED, RUNNING, WAITING, DIVERGED)


@dataclass(frozen=True)
class RunStatus:
    """How far a run is."""

    status: str
    """One of ORDER; TRAINED is after all steps, but not measured yet."""
    step: int
    """The last step that is logged or kept."""
    why: str = ""
    """Why it ended early."""
    rate: float = 0.0
    """Rows a second at the last logged step."""


def run_status(member: Member) -> RunStatus:
    """The status of a run, also while another process is writing it."""
    path, steps = member.path, member.config.run.steps
    kept, last = kept_steps(path), _last_logged(path)
    rate = float(last.get("rows_per_s", 0.0))
    if kept and kept[-1] >= steps:
        return RunStatus(DONE if (path / MEASURES).exists() else TRAINED, steps, rate=rate)
    ended = read_early_end(path)
    if ended is not None:
        return RunStatus(ended.status, max([0, *kept]), f"{ended.reason}, at step {ended.step}")
    step = max([int(last.get("step", 0)), *kept])
    return RunStatus(RUNNING if is_held(path) else WAITING, step, rate=rate)


def seconds_trained(run: Path) -> float:
    """Wall time of the steps that a run has logged, the first with its compilation."""
    seconds, rows = 0.0, 0.0
    for record in metrics_of(run):
        if record.get("rows_per_s") and "rows" in record:
            seconds += (record["rows"] - rows) / record["rows_per_s"]
            rows = record["rows"]
    return seconds


def status_text(members: Sequence[Member]) -> str:
    """How many runs have which status, how fast they go and what is left, and a line a run."""
    statuses = [run_status(member) for member in members]
    counts = Counter(run.status for run in statuses)
    head = ", ".join(f"{counts[word]} {word}" for word in ORDER if counts[word])
    lines = [f"{len(members)} runs: {head}"]
    rate = sum(run.rate for run in statuses if run.status == RUNNING)
    if rate:
        rows_left = sum(
            (member.config.run.steps - run.step) * member.config.data.batch
            for member, run in zip(members, statuses, strict=True)
            if run.status in (RUNNING, WAITING)
        )
        lines.append(
            f"{rate:,.0f} rows/s over the runs that train; "
            f"{duration(rows_left / rate)} left at that rate"
        )
    lines += [
        f"  {member.id}  {run.status:<9} {run.step:>7}/{member.config.run.steps:<7} "
        f"{member.name}{'  ' + shown(run.why) if run.why else ''}"
        for member, run in zip(members, statuses, strict=True)
    ]
    return "\n".join(lines)


def _last_logged(run: Path) -> dict[str, float]:
    return next((record for record in reversed(metrics_of(run)) if "rows_per_s" in record), {})
