"""What a sweep is doing, as text, and rows of its table that a person asks for."""

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from vasae_jax.sweep.points import Member
from vasae_jax.sweep.table import (
    DONE,
    RUNNING,
    TRAINED,
    WAITING,
    Row,
    Standing,
    best_first,
    column,
    standing,
)
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.progress import duration

ORDER = (DONE, TRAINED, RUNNING, WAITING, "diverged", "stopped")
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}


def status(members: Sequence[Member]) -> str:
    """How many runs are where, how fast it goes and what is left, and a line a run."""
    found = [standing(member) for member in members]
    counts = Counter(one.status for one in found)
    head = ", ".join(f"{counts[word]} {word}" for word in ORDER if counts[word])
    lines = [f"{len(members)} runs: {head}"]
    running = [one.rate for one in found if one.status == RUNNING]
    left = _rows_left(members, found)
    if sum(running):
        lines.append(
            f"{sum(running):,.0f} rows/s over the runs that train; "
            f"{duration(left / sum(running))} left at that rate"
        )
    lines += [
        f"  {member.id}  {one.status:<9} {one.step:>7}/{member.config.run.steps:<7} "
        f"{member.name}{'  ' + one.why if one.why else ''}"
        for member, one in zip(members, found, strict=True)
    ]
    return "\n".join(lines)


def _rows_left(members: Sequence[Member], found: Sequence[Standing]) -> int:
    return sum(
        (member.config.run.steps - one.step) * member.config.data.batch
        for member, one in zip(members, found, strict=True)
        if one.status in (RUNNING, WAITING)
    )


def chosen(rows: Sequence[Row], conditions: Sequence[str]) -> list[Row]:
    """The rows that all ``conditions`` hold for, such as ``sae.k>=32``.

    Raises:
        UserError: a condition cannot be read, or names no column.
    """
    found = list(rows)
    for text in conditions:
        sign = next((sign for sign in OPERATORS if sign in text), None)
        if sign is None:
            raise UserError(f"--where is {text!r}; expected KEY=VALUE, or with !=, <, <=, > or >=")
        key, _, value = text.partition(sign)
        name = column(rows, key.strip())
        found = [row for row in found if _holds(row[name], sign, value.strip())]
    return found


def shown(rows: Sequence[Row], keys: Sequence[str], sort: str | None) -> str:
    """Columns ``keys`` of rows as text, the best by ``sort`` first."""
    ordered = best_first(rows, sort) if sort and rows else list(rows)
    if not ordered:
        return "no run has what was asked for"
    names = [column(rows, key) for key in keys]
    lines = [names] + [[_text(row[name]) for name in names] for row in ordered]
    widths = [max(len(line[place]) for line in lines) for place in range(len(names))]
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
    return "" if value is None else str(value)
