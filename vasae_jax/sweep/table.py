"""TensorBoard's page of a grid: a row a run, with what varies and what was measured."""

import contextlib
import csv
import difflib
import importlib.util
import io
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vasae_jax.config.overrides import flatten
from vasae_jax.evaluation.metrics import numbers
from vasae_jax.sweep.points import Member, varied
from vasae_jax.training.boards import summary_writer
from vasae_jax.training.log import print_once
from vasae_jax.training.run_dir import METRICS
from vasae_jax.training.status import read_ended
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import atomic_file, write_bytes
from vasae_jax.utils.lock import OWNER, SILENCE

# Where each run of a sweep stands, read off its directory; nothing is opened for writing.


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


# The table of a sweep: a row a run, with its settings, its measures, how it stands and its id.


CSV, PARQUET = "sweep.csv", "sweep.parquet"
LEAST = (
    "fvu",
    "dead",
    "dead_fraction",
    "loss",
    "seconds",
    "contradicted",
    "shuffled1",
    "shuffled10",
)
"""Measures of which less is better, by the last part of their names."""

Row = dict[str, Any]


def table(members: Sequence[Member]) -> list[Row]:
    """A row for each run; a measure that a run lacks is None."""
    rows = [_row(member) for member in members]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [{name: row.get(name) for name in names} for row in rows]


def write_table(out: Path, rows: Sequence[Row]) -> list[Path]:
    """Write ``out``/sweep.csv, and sweep.parquet where pyarrow is installed."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(out / CSV, text.getvalue().encode())
    if importlib.util.find_spec("pyarrow") is None:
        print_once(
            f"{PARQUET} needs pyarrow (pip install 'vasae-jax[sweep]'): written as {CSV} alone"
        )
        return [out / CSV]
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_file(out / PARQUET) as file:
        pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return [out / CSV, out / PARQUET]


def column(rows: Sequence[Row], key: str) -> str:
    """The column that ``key`` means: its name, or the first that ends in it.

    Raises:
        UserError: there is none; the nearest is named.
    """
    names = list(rows[0])
    if key in names:
        return key
    ends = [name for name in names if name.endswith("." + key)]
    if ends:
        return ends[0]
    near = difflib.get_close_matches(key, [*names, *(n.split(".")[-1] for n in names)], n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one such as {', '.join(names[:6])}"
    raise UserError(f"the table has no column {key}; {hint}")


def best_first(rows: Sequence[Row], key: str) -> list[Row]:
    """The rows that have a value of ``key``, the best first: the least of LEAST, else the most."""
    name = column(rows, key)
    found = [row for row in rows if row[name] is not None]
    return sorted(found, key=lambda row: row[name], reverse=name.split(".")[-1] not in LEAST)


def _row(member: Member) -> Row:
    now = standing(member)
    settings = {k: v for k, v in flatten(member.config).items() if not k.startswith("run.")}
    run = member.config.run
    return {
        "id": member.id,
        "name": member.name,
        "status": now.status,
        "step": now.step,
        "why": now.why,
        "seconds": round(seconds_trained(member.path), 3),
        **settings,
        "run.steps": run.steps,
        "run.seed": run.seed,
        **measured(member),
    }


def measured(member: Member) -> dict[str, float]:
    """The numbers of a run's measures by dotted name; none where it was not measured."""
    file = member.path / MEASURES
    if not file.is_file():
        return {}
    try:
        return numbers(json.loads(file.read_text()))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); expected what vasae sweep wrote") from error


BOARD = "tensorboard"


def write_board(out: Path, members: Sequence[Member], rows: Sequence[Row]) -> None:
    """Write ``out``/tensorboard anew, for the tab HParams: a line for each run that is done.

    Raises:
        UserError: tensorboardX is not installed.
    """
    keys = varied([member.config for member in members])
    shutil.rmtree(out / BOARD, ignore_errors=True)
    for member, row in zip(members, rows, strict=True):
        if row["status"] == DONE:
            flat = flatten(member.config)
            settings = {key: flat[key] for key in keys}
            with summary_writer(out / BOARD / member.id) as writer:
                writer.add_hparams(settings, measured(member), name=".")
