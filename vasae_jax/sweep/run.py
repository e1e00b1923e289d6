"""A sweep from its definition to its table."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vasae_jax.config import Config
from vasae_jax.distributed.hosts import is_first
from vasae_jax.sweep.grid import Point
from vasae_jax.sweep.packs import Pack, in_pack_order, packs_of, sliced
from vasae_jax.sweep.points import (
    SWEEP,
    Member,
    Sweep,
    members_of,
    named,
    read_members,
    write_members,
)
from vasae_jax.sweep.table import (
    DONE,
    best_first,
    measured,
    standing,
    table,
    write_board,
    write_table,
)
from vasae_jax.sweep.train import Planner, train_packs
from vasae_jax.training.status import Rules
from vasae_jax.utils.errors import UserError


@dataclass(frozen=True)
class Asked:
    """How a sweep is spread."""

    shard: tuple[int, int] = (0, 1)
    """Which part of how many equal parts of the runs is trained here."""
    max_members: int = 0
    """Most runs of a pack; 0: as many as memory holds."""
    on: str = ""
    """``ray``, or ``ray://HEAD``; empty: in this process."""
    hosts: int = 1
    """Hosts of a pack on Ray."""


def run_sweep(sweep: Sweep, asked: Asked) -> list[Path]:
    """Train and measure what is missing of a sweep, and write its table; returns the files.

    The same call again does what is still missing. The table has every run, those that other
    jobs train too.

    Raises:
        UserError: something given cannot be used (before anything starts), or packs failed.
        Stopped: a signal asked for it; progress is kept.
    """
    sweep = checked(sweep)
    if asked.on:
        sweep = absolute(sweep)
    members = members_of(sweep.base, sweep.points, sweep.out)
    planner, out = Planner(members), Path(sweep.out)
    if is_first():
        write_members(out, members)
    try:
        if asked.on:
            from vasae_jax.sweep.on_ray import open_ray, train_on_ray

            slots = open_ray(asked.on, sweep.base, asked.hosts)
            train_on_ray(planned(members, planner, asked, slots), sweep.rules, asked.hosts)
        else:
            train_packs(planned(members, planner, asked), sweep.rules)
    finally:
        written = write_results(out, members) if is_first() else []
    return written


def checked(sweep: Sweep) -> Sweep:
    """The sweep, whose rules are checked; UserError for what cannot be used."""
    if sweep.base.run.overwrite:
        raise UserError(
            "--run.overwrite was given; expected none: a sweep keeps what is done, and --out of "
            "another directory begins anew"
        )
    if sweep.rules.halving is not None:
        sweep.rules.halving.check()
    return sweep


def absolute(sweep: Sweep) -> Sweep:
    """The sweep with paths that workers elsewhere can follow."""
    data = sweep.base.data
    if data.cache and "://" not in data.cache:
        data = replace(data, cache=os.path.abspath(data.cache))
    return replace(sweep, base=replace(sweep.base, data=data), out=os.path.abspath(sweep.out))


def planned(
    members: Sequence[Member], planner: Planner, asked: Asked, slots: int = 1
) -> list[Pack]:
    """The packs of this job; at least one for each of ``slots`` places that train side by side."""
    ordered = in_pack_order(members, planner.key)
    mine = sliced(ordered, *asked.shard)
    even = math.ceil(len(mine) / slots)

    def most(member: Member) -> int:
        return min(even, asked.max_members or planner.most(member))

    return packs_of(mine, planner.key, most)


def write_results(out: Path, members: Sequence[Member]) -> list[Path]:
    """Write the table of all runs as they stand, and TensorBoard's page of it where asked."""
    rows = table(members)
    if members[0].config.run.tensorboard:
        write_board(out, members, rows)
    return write_table(out, rows)


# One run out of a sweep.


def chosen_run(out: Path, best: str | None, member: str | None) -> Path:
    """The directory of the run that is best by column ``best``, or of the one of id ``member``.

    Only runs that are done compete. An id may be cut short.

    Raises:
        UserError: ``out`` is no sweep, or no run, or more than one, is meant.
    """
    members = read_members(out)
    if best is not None:
        done = [row for row in table(members) if row["status"] == DONE]
        found = [row["id"] for row in best_first(done, best)[:1]] if done else []
        wanted = f"done run with {best}"
    else:
        found = [one.id for one in members if one.id.startswith(member or " ")]
        wanted = f"run {member}"
    if len(found) != 1:
        raise UserError(f"sweep {out} has {len(found)} of: {wanted}; expected one")
    return next(one.path for one in members if one.id == found[0])


# Training points that a tuner asks for.


def train_points(
    base: Config, points: Iterable[Point], out: str, rules: Rules | None = None
) -> list[dict[str, Any]]:
    """Train and measure some points of a sweep that grows, those together that can be.

    Points that ``out`` holds already are not trained again. All that were ever asked for are in
    its table, which the verbs of ``vasae sweep`` read.

    Args:
        base: what all points have in common.
        points: what each sets instead, by dotted name, such as ``{"optim.lr": 2e-3}``.
        out: directory of the sweep.
        rules: when a run ends before its last step.

    Returns:
        For each point its measures by dotted name, such as ``unmasked.fvu``, with ``id`` and
        ``status``. A run that diverged before its first checkpoint has no others.

    Raises:
        UserError: a setting cannot be used (before anything starts), or a pack failed.
        Stopped: a signal asked for it; progress is kept.
    """
    grid = tuple(points)
    asked = members_of(base, grid, out)
    before = read_members(Path(out)) if (Path(out) / SWEEP).exists() else []
    known = named(list({member.id: member for member in (*before, *asked)}.values()))
    planner = Planner(asked)
    write_members(Path(out), known)
    try:
        train_packs(planned(asked, planner, Asked()), rules or Rules())
    finally:
        write_results(Path(out), known)
    of_point = [members_of(base, (point,), out)[0] for point in grid]
    return [{"id": one.id, "status": standing(one).status, **measured(one)} for one in of_point]
