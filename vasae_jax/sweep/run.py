"""Run a sweep from its definition to its table, or print what it would train."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.distributed.hosts import is_first
from vasae_jax.sweep.grid import Point
from vasae_jax.sweep.packs import (
    Pack,
    Planner,
    device_bytes,
    in_pack_order,
    packs_of,
    take_shard,
    train_packs,
)
from vasae_jax.sweep.points import (
    Member,
    Sweep,
    add_members,
    members_of,
    read_members,
    sweep_lock,
    varied,
    write_members,
)
from vasae_jax.sweep.status import DONE, run_status
from vasae_jax.sweep.table import best_row, read_measures, table, write_board, write_table
from vasae_jax.training.pack import rounds_of, widest
from vasae_jax.training.run_dir import with_absolute_cache
from vasae_jax.training.shapes import shapes_of
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.progress import duration

if TYPE_CHECKING:
    from vasae_jax.aot import Slice


@dataclass(frozen=True)
class SweepOptions:
    """How a sweep is divided into jobs and packs, and where it runs."""

    shard: tuple[int, int] = (0, 1)
    """Part of the runs that is trained here, from 0, and the number of equal parts."""
    max_members: int = 0
    """Most runs of a pack; 0: as many as memory holds."""
    on: str = ""
    """``ray``, or ``ray://HEAD``; empty: in this process."""
    hosts: int = 1
    """Hosts of a pack on Ray."""


def run_sweep(sweep: Sweep, options: SweepOptions) -> list[Path]:
    """Train and measure what is missing of a sweep, and write its table; returns the files.

    The same call again does what is still missing. The table has every run, those that other
    jobs train too.

    Raises:
        UserError: a setting cannot be used (before anything starts), or packs failed.
        Stopped: a signal stopped it; progress is kept.
    """
    check_sweep(sweep)
    if options.on:
        sweep = with_absolute_paths(sweep)
    members = members_of(sweep.base, sweep.points, sweep.out)
    planner, out = Planner(members), Path(sweep.out)
    if is_first():
        with sweep_lock(out):
            write_members(out, members)
    try:
        if options.on:
            from vasae_jax.sweep.on_ray import open_ray, train_on_ray

            workers = open_ray(options.on, sweep.base, options.hosts)
            train_on_ray(make_packs(members, planner, options, workers), options.hosts)
        else:
            train_packs(make_packs(members, planner, options))
    finally:
        written = write_results(out) if is_first() else []
    return written


def check_sweep(sweep: Sweep) -> None:
    """Raise UserError for a sweep that cannot be run."""
    if sweep.base.run.overwrite:
        raise UserError(
            "--run.overwrite was given; expected none: a sweep keeps what is done, and --out of "
            "another directory begins anew"
        )


def with_absolute_paths(sweep: Sweep) -> Sweep:
    """The sweep with paths that workers in other directories can use."""
    base = with_absolute_cache(sweep.base) if sweep.base.data.cache else sweep.base
    return replace(sweep, base=base, out=os.path.abspath(sweep.out))


def make_packs(
    members: Sequence[Member], planner: Planner, options: SweepOptions, workers: int = 1
) -> list[Pack]:
    """The packs of this job; at least one for each of ``workers`` that train side by side."""
    ordered = in_pack_order(members, planner.key)
    shard = take_shard(ordered, *options.shard)
    even = math.ceil(len(shard) / workers)

    def most(member: Member) -> int:
        return min(even, options.max_members or planner.most(member))

    return packs_of(shard, planner.key, most)


def write_results(out: Path) -> list[Path]:
    """Write the table of all runs as they are now, also for TensorBoard if the runs log to it.

    Runs that other processes have added since are in it too.
    """
    with sweep_lock(out):
        members = read_members(out)
        rows = table(members)
        if members[0].config.run.tensorboard:
            write_board(out, members, rows)
        return write_table(out, rows)


def find_run(out: Path, best: str | None, member: str | None) -> Path:
    """The directory of the run that is best by column ``best``, or of the run with id ``member``.

    Only runs that are done are compared. The start of an id is enough.

    Raises:
        UserError: ``out`` has no sweep, not exactly one such run, or no run is best by ``best``.
    """
    members = read_members(out)
    if best is not None:
        done = [row for row in table(members) if row["status"] == DONE]
        ids = [best_row(done, best)["id"]] if done else []
        wanted = f"done run with {best}"
    else:
        ids = [run.id for run in members if run.id.startswith(member or " ")]
        wanted = f"run {member}"
    if len(ids) != 1:
        raise UserError(f"sweep {out} has {len(ids)} of: {wanted}; expected one")
    return next(run.path for run in members if run.id == ids[0])


def train_points(base: Config, points: Iterable[Point], out: str) -> list[dict[str, Any]]:
    """Train and measure points that a tuner asks for, as packs where they can share one.

    Points that ``out`` holds already are not trained again. All points of all calls are in its
    table, which the verbs of ``vasae sweep`` read. Several processes may share one ``out``; a point
    that another of them trains at that moment is refused.

    Args:
        base: what all points have in common.
        points: what each sets instead, by dotted name, such as ``{"optim.lr": 2e-3}``.
        out: directory of the sweep.

    Returns:
        For each point its measures by dotted name, such as ``unmasked.fvu``, with ``id`` and
        ``status``: ``done``, or ``diverged`` for a run that ended early. Such a run has the
        measures of its last checkpoint, or none if it diverged before the first.

    Raises:
        UserError: a setting cannot be used (before anything starts), or a pack failed.
        Stopped: a signal stopped it; progress is kept.
    """
    grid = tuple(points)
    new, folder = members_of(base, grid, out), Path(out)
    planner = Planner(new)
    add_members(folder, new)
    try:
        train_packs(make_packs(new, planner, SweepOptions()))
    finally:
        write_results(folder)
    runs = [members_of(base, (point,), out)[0] for point in grid]
    return [{"id": run.id, "status": run_status(run).status, **read_measures(run)} for run in runs]


def dry_run(sweep: Sweep, options: SweepOptions, topology: str | None = None) -> str:
    """The packs and runs that would be trained, the memory of each and, on a TPU slice, the time.

    Raises:
        UserError: the sweep cannot be run, or the slice is not known.
    """
    tpu = None
    if topology:
        from vasae_jax.aot import open_slice

        tpu = open_slice(topology)  # before JAX has looked for devices
    check_sweep(sweep)
    members = members_of(sweep.base, sweep.points, sweep.out)
    planner = Planner(members, "tpu" if tpu else None)
    packs = make_packs(members, planner, options)
    done = sum(run_status(member).status == DONE for member in members)
    axes = ", ".join(varied([member.config for member in members])) or "nothing"
    lines = [f"{len(members)} runs that differ in {axes}; {done} are done; {len(packs)} packs here"]
    if hint := _seed_hint(members):
        lines.append(hint)
    total = 0.0
    for number, pack in enumerate(packs, 1):
        memory = planner.memory(pack).total
        lines.append(
            f"pack {number}: {_description(pack)}; about {memory / 2**30:.2f} GiB a device"
        )
        if tpu is not None:
            seconds = pack_seconds(pack, tpu)
            total += seconds
            lines[-1] += f", {duration(seconds)} on {topology} by its compiler's cost model"
    if tpu is not None:
        lines.append(f"in all {duration(total)}, an estimate: nothing has run")
    else:
        lines.append(f"a device has {device_bytes() / 2**30:.1f} GiB")
    lines += [f"  {member.id}  {member.name}" for pack in packs for member in pack]
    return "\n".join(lines)


def pack_seconds(pack: Pack, tpu: "Slice") -> float:
    """Seconds of the steps of ``pack`` on a TPU slice, by its compiler's estimate of a round.

    Raises:
        UserError: the mesh does not divide the slice.
        TooLarge: a device's memory does not hold it.
    """
    from vasae_jax.aot import compile_program, cost_of

    configs = [member.config for member in pack]
    config = widest(configs)
    mesh = tpu.mesh(config.mesh.member, config.mesh.model)
    shapes = shapes_of(config, Cache.open(config.data.cache).manifest)
    compiled = compile_program("pack", config, shapes, mesh)
    rounds = len(rounds_of(configs, config.mesh.member))
    return cost_of(compiled, tpu.chip).seconds * rounds * config.run.steps


def _description(pack: Pack) -> str:
    configs = [member.config for member in pack]
    layers = ", ".join(map(str, sorted({config.data.layer for config in configs})))
    rounds = len(rounds_of(configs, configs[0].mesh.member))
    return (
        f"{len(pack)} runs on layer {layers}, k up to {widest(configs).sae.k}, in {rounds} rounds "
        f"a step, {configs[0].run.steps} steps of {configs[0].data.batch} rows"
    )


def _seed_hint(members: Sequence[Member]) -> str:
    """A hint if seeds keep runs from sharing a pack, or make no difference; else empty."""
    configs = [member.config for member in members]
    if len({config.run.seed for config in configs}) == 1:
        return ""
    seed_orders_rows = any(config.data.seed is None for config in configs)
    seed_draws_weights = any(_draws_weights(config) for config in configs)
    if seed_orders_rows and seed_draws_weights:
        return (
            "each run.seed also orders the rows: with one data.seed runs of all seeds share packs"
        )
    if not seed_orders_rows and not seed_draws_weights:
        return (
            "no weight is drawn and data.seed orders the rows: runs of several run.seed are equal"
        )
    return ""


def _draws_weights(config: Config) -> bool:
    """Whether a run's first weights depend on its seed."""
    sae = config.sae
    inits = (sae.encoder_init, sae.decoder_init, sae.b_dec_init)
    return any(init in ("normal", "uniform", "random") for init in inits)
