"""A sweep from its definition to its table."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vasae_jax.devices.distributed import is_first
from vasae_jax.sweep.board import write_board
from vasae_jax.sweep.definition import Sweep
from vasae_jax.sweep.packs import Pack, in_pack_order, packs_of, sliced
from vasae_jax.sweep.points import Member, members_of, write_members
from vasae_jax.sweep.results import table, write_table
from vasae_jax.sweep.train import Planner, train_packs
from vasae_jax.system.errors import UserError


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
