"""``vasae sweep``: a grid of runs, and ``status``, ``table`` and ``plot`` of one."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from vasae_jax.cli.options import add_hosts, need_matplotlib, run_joined
from vasae_jax.config.overrides import parse_overrides
from vasae_jax.utils.errors import UserError

PROGRAM = "vasae sweep"
SHOWN = "id,name,status,unmasked.variance_explained"
"""Columns of ``vasae sweep table`` by default."""
FRONTIER = ("unmasked.variance_explained", "hold10")


def run(arguments: Sequence[str]) -> None:
    """Train a sweep, or look at one."""
    looks: dict[str, Callable[[Sequence[str]], None]] = {
        "status": _status,
        "table": _table,
        "plot": _plot,
    }
    if arguments and arguments[0] in looks:
        looks[arguments[0]](arguments[1:])
    else:
        _train(arguments)


def _train(arguments: Sequence[str]) -> None:
    given, settings = _parser().parse_known_args(list(arguments))

    from vasae_jax.sweep import load_sweep
    from vasae_jax.sweep.packs import parse_shard
    from vasae_jax.sweep.run import SweepOptions, run_sweep

    sweep = load_sweep(given.file)
    base = parse_overrides(sweep.base, settings, PROGRAM)
    sweep = dataclasses.replace(sweep, base=base, out=given.out or sweep.out)
    shard = parse_shard(given.shard)
    if given.max_members < 0:
        raise UserError(f"--max-members is {given.max_members}; expected at least 1, or 0")
    options = SweepOptions(shard, given.max_members, given.on or "", given.hosts)
    if given.dry_run:
        from vasae_jax.sweep.dry_run import dry_run

        print(dry_run(sweep, options, given.topology))
        return
    if given.on and given.distributed:
        raise UserError(
            "--on and --distributed were both given; expected --hosts for hosts of packs on Ray"
        )
    run_joined(given, lambda: list(map(str, run_sweep(sweep, options))))


def _status(arguments: Sequence[str]) -> None:
    parser = _looking("status", "The status of each run of a sweep, and how long is left.")
    given = parser.parse_args(arguments)

    from vasae_jax.sweep.points import read_members
    from vasae_jax.sweep.status import status_text

    print(status_text(read_members(Path(given.dir))))


def _table(arguments: Sequence[str]) -> None:
    parser = _looking("table", "The table of a sweep, written anew and shown in part.")
    add = parser.add_argument
    add("--sort", metavar="KEY", help="show runs that have it, the best first")
    add(
        "--where",
        nargs="+",
        default=[],
        metavar="COND",
        help="only runs such as sae.k=32 or fvu<0.3; all conditions hold",
    )
    add("--columns", default=SHOWN, help="columns, or the ends of their names (%(default)s)")
    given = parser.parse_args(arguments)

    from vasae_jax.sweep.points import read_members
    from vasae_jax.sweep.table import format_rows, select_rows, table, write_table

    out = Path(given.dir)
    rows = table(read_members(out))
    written = write_table(out, rows)
    keys = given.columns.split(",")
    if given.sort and given.sort not in keys:
        keys.append(given.sort)
    keys += [key for key in map(_key, given.where) if key not in keys]
    print(format_rows(select_rows(rows, given.where), keys, given.sort))
    print("written to", *written)


def _key(condition: str) -> str:
    return condition.split("=")[0].split("<")[0].split(">")[0].rstrip("!").strip()


def _plot(arguments: Sequence[str]) -> None:
    parser = _looking("plot", "Figures of a sweep: a frontier of two measures, and each axis.")
    add = parser.add_argument
    add("--x", default=FRONTIER[0], help="measure along the frontier (default: %(default)s)")
    add("--y", default=FRONTIER[1], help="measure up the frontier (default: %(default)s)")
    add("--by", metavar="KEY", help="setting to colour points by (default: the first that varies)")
    add("--overwrite", action="store_true", help="replace the figures")
    given = parser.parse_args(arguments)

    need_matplotlib()
    from vasae_jax.report.figures.sweep import sweep_figures
    from vasae_jax.sweep.points import read_members, varied
    from vasae_jax.sweep.table import column, table

    out = Path(given.dir)
    members = read_members(out)
    rows = table(members)
    keys = varied([member.config for member in members])
    pair = column(rows, given.x), column(rows, given.y)
    by = column(rows, given.by) if given.by else None
    print(*sweep_figures(rows, keys, pair, out, by, given.overwrite), sep="\n")


def _looking(verb: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} {verb}", description=description)
    parser.add_argument("dir", help="directory of a sweep")
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Train and measure every point of a sweep file, those together that can be, "
        "and write one table. Run again, it does what is missing. vasae sweep status|table|plot "
        "DIR look at one. docs/sweeps.md has the rest.",
        epilog="Settings of vasae train, such as --run.steps=200, may follow: they change the base "
        "of every point.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", help="a Python file with sweep = Sweep(...)")
    add("--out", help="directory of the sweep (default: the file's)")
    add("--dry-run", action="store_true", help="say what would be trained, and start nothing")
    add(
        "--topology",
        help="with --dry-run: a TPU slice such as v5e:4x4 to estimate the time for (needs libtpu)",
    )
    add(
        "--shard",
        default="0/1",
        metavar="I/N",
        help="train only part I, from 0, of N equal parts of the runs",
    )
    add(
        "--max-members",
        type=int,
        default=0,
        metavar="N",
        help="most runs of a pack (default: as many as memory holds)",
    )
    add("--on", metavar="ray|ray://HOST:PORT", help="train packs as tasks of Ray")
    add("--hosts", type=int, default=1, help="with --on: hosts of each pack (default: 1)")
    add_hosts(parser)
    return parser
