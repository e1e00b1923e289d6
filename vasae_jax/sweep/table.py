"""The table of a sweep: a row for each run, with its settings, measures, status and id.

It is written as CSV and Parquet, shown in part as text, and shown by TensorBoard.
"""

import difflib
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vasae_jax.evaluation.measures import better
from vasae_jax.evaluation.metrics import flatten_numbers
from vasae_jax.sweep.points import ID_PATTERN, Member, shown_settings, varied
from vasae_jax.sweep.status import DONE, MEASURES, run_status, seconds_trained
from vasae_jax.training.boards import summary_writer
from vasae_jax.training.log import print_once
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import atomic_file, write_bytes
from vasae_jax.utils.read_json import read_json_object
from vasae_jax.utils.replace import check_replaceable, refuse_links, remove_entries
from vasae_jax.utils.shown import csv_text, shown

CSV, PARQUET, BOARD = "sweep.csv", "sweep.parquet", "tensorboard"
MOST_CANDIDATES = 8
"""Columns that an error names at most."""
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
Row = dict[str, Any]


def table(members: Sequence[Member]) -> list[Row]:
    """A row for each run; a measure that a run lacks is None."""
    rows = [
        _row(member, settings)
        for member, settings in zip(members, shown_settings(members), strict=True)
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def _row(member: Member, settings: Row) -> Row:
    status = run_status(member)
    of_run = ("run.steps", "run.seed")
    return {
        "id": member.id,
        "name": member.name,
        "status": status.status,
        "step": status.step,
        "why": status.why,
        "seconds": round(seconds_trained(member.path), 3),
        **{name: value for name, value in settings.items() if not name.startswith("run.")},
        **{name: settings[name] for name in of_run},
        **read_measures(member),
    }


def read_measures(member: Member) -> dict[str, float]:
    """The numbers of a run's measures by dotted name; empty if it was not measured."""
    file = member.path / MEASURES
    if not file.is_file():
        return {}
    return flatten_numbers(read_json_object(file, "what vasae sweep wrote"))


def write_table(out: Path, rows: Sequence[Row]) -> list[Path]:
    """Write ``out``/sweep.csv, and sweep.parquet if pyarrow is installed."""
    names = list(rows[0])
    text = csv_text([names, *([row[name] for name in names] for row in rows)])
    write_bytes(out / CSV, text.encode())
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        print_once(
            f"{PARQUET} needs pyarrow (pip install 'vasae-jax[sweep]'): written as {CSV} alone"
        )
        return [out / CSV]
    with atomic_file(out / PARQUET) as file:
        texts = [{k: shown(v) if isinstance(v, str) else v for k, v in row.items()} for row in rows]
        pq.write_table(pa.Table.from_pylist(texts), file)
    return [out / CSV, out / PARQUET]


def write_board(out: Path, members: Sequence[Member], rows: Sequence[Row]) -> None:
    """Write ``out``/tensorboard anew, for the tab HParams: a line for each run that is done.

    Raises:
        UserError: tensorboardX is not installed, or what is there is not to be replaced.
    """
    keys = varied([member.config for member in members])
    refuse_links(out, [BOARD])
    check_replaceable(out / BOARD, [ID_PATTERN])
    remove_entries(out / BOARD, [ID_PATTERN])
    for member, row, all_settings in zip(members, rows, shown_settings(members), strict=True):
        if row["status"] == DONE:
            settings = {key: all_settings[key] for key in keys}
            with summary_writer(out / BOARD / member.id) as writer:
                writer.add_hparams(settings, read_measures(member), name=".")


def column(rows: Sequence[Row], key: str) -> str:
    """The column that ``key`` means: its name, or the only one that ends in it.

    Raises:
        UserError: there is none, and the nearest is named; or there are several.
    """
    names = list(rows[0])
    if key in names:
        return key
    ends = [name for name in names if name.endswith("." + key)]
    if len(ends) > 1:
        shown = ", ".join(ends[:MOST_CANDIDATES]) + (", ..." if ends[MOST_CANDIDATES:] else "")
        raise UserError(f"{key} may be any of {len(ends)} columns; expected one of {shown}")
    if ends:
        return ends[0]
    near = difflib.get_close_matches(key, [*names, *(n.split(".")[-1] for n in names)], n=1)
    hint = f"did you mean {near[0]}?" if near else f"expected one such as {', '.join(names[:6])}"
    raise UserError(f"the table has no column {key}; {hint}")


def best_row(rows: Sequence[Row], key: str) -> Row:
    """The row that is best by the measure ``key``.

    Raises:
        UserError: of ``key`` neither more nor less is better, a row lacks it, or all rows have one
            value.
    """
    name = column(rows, key)
    if better(name) not in ("more", "less"):
        raise UserError(
            f"neither more nor less of {name} is better; expected a measure such as "
            "unmasked.fvu or names.layer.all.hold10 (evaluation/measures.py has all)"
        )
    if lacking := [row["id"] for row in rows if row[name] is None]:
        raise UserError(
            f"{len(lacking)} of {len(rows)} runs have no {name}, such as {lacking[0]}; expected a "
            "measure that all have"
        )
    if len(rows) > 1 and len({row[name] for row in rows}) == 1:
        raise UserError(
            f"all {len(rows)} runs have {name} {rows[0][name]:g}; expected a measure in which "
            "they differ"
        )
    return sorted_rows(rows, name)[0]


def sorted_rows(rows: Sequence[Row], key: str) -> list[Row]:
    """The rows that have a value of ``key``: the best first, and of no measure the least first."""
    name = column(rows, key)
    having = [row for row in rows if row[name] is not None]
    # Settings may be numbers in some runs and words in others.
    words = [row for row in having if isinstance(row[name], str)]
    numbers = [row for row in having if not isinstance(row[name], str)]
    in_order = sorted(numbers, key=lambda row: row[name], reverse=better(name) == "more")
    return in_order + sorted(words, key=lambda row: row[name])


def select_rows(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """The rows that all ``conditions`` hold for, such as ``sae.k>=32``.

    Raises:
        UserError: a condition cannot be read, or names no column.
    """
    selected = list(rows)
    for key, sign, value in map(condition_parts, conditions):
        name = column(rows, key)
        selected = [row for row in selected if _holds(row[name], sign, value)]
    return selected


def condition_parts(text: str) -> tuple[str, str, str]:
    """The column, the operator and the value of a condition such as ``sae.k>=32``."""
    sign = next((sign for sign in OPERATORS if sign in text), None)
    if sign is None:
        raise UserError(f"--where is {text!r}; expected KEY=VALUE, or with !=, <, <=, > or >=")
    key, _, value = text.partition(sign)
    return key.strip(), sign, value.strip()


def format_rows(rows: Sequence[Row], keys: Sequence[str], sort: str | None) -> str:
    """Columns ``keys`` of rows as text, in the order of :func:`sorted_rows` by ``sort``."""
    ordered = sorted_rows(rows, sort) if sort and rows else list(rows)
    if not ordered:
        return "no run matches"
    names = [column(rows, key) for key in keys]
    lines = [names] + [[_text(row[name]) for name in names] for row in ordered]
    widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _holds(value: Any, sign: str, text: str) -> bool:
    if value is None:
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return OPERATORS[sign](value, float(text))
        except ValueError:
            return sign == "!="
    return OPERATORS[sign](str(value), text)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.5g}"
    return "" if value is None else shown(str(value))
