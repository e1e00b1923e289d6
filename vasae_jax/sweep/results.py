"""The table of a sweep: a row a run, with its settings, its measures, how it stands and its id."""

import csv
import difflib
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vasae_jax.config.overrides import flatten
from vasae_jax.evaluation.numbers import numbers
from vasae_jax.sweep.points import Member
from vasae_jax.sweep.standing import MEASURES, seconds_trained, standing
from vasae_jax.system.errors import UserError
from vasae_jax.system.files import atomic_file, write_bytes
from vasae_jax.training.log import say

CSV, PARQUET = "sweep.csv", "sweep.parquet"
LEAST = ("fvu", "dead", "dead_share", "loss", "seconds", "contradicted", "shuffled1", "shuffled10")
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
        say(f"{PARQUET} needs pyarrow (pip install 'vasae-jax[sweep]'): written as {CSV} alone")
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
