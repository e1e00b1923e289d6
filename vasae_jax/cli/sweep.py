"""Train and measure every point of a sweep file, and write one table.

Several points are trained together where possible. Run the command again to train what is missing.
vasae sweep status|table|plot DIR shows a sweep. docs/sweeps.md has the rest.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from vasae_jax.cli.options import VerbParser, add_hosts, at_least, require_matplotlib, run_on_hosts
from vasae_jax.config.overrides import parse_overrides
from vasae_jax.utils.errors import UserError

PROGRAM = "vasae sweep"
COLUMNS = "id,name,status,unmasked.variance_explained"
"""Default columns of ``vasae sweep table``."""
FRONTIER = ("unmasked.variance_explained", "names.layer.all.hold10")


def run(arguments: Sequence[str]) -> None:
    """Train a sweep, or show one."""
    actions = {"status": _status, "table": _table, "plot": _plot}
    if arguments and arguments[0] in actions:
        actions[arguments[0]](arguments[1:])
    else:
        _train(arguments)


def _train(arguments: Sequence[str]) -> None:
    args, settings = _parser().parse_known_args(list(arguments))

    from vasae_jax.sweep import load_sweep
    from vasae_jax.sweep.packs import parse_shard
    from vasae_jax.sweep.run import SweepOptions, dry_run, run_sweep

    sweep = load_sweep(args.file)
    base = parse_overrides(sweep.base, settings, PROGRAM)
    sweep = dataclasses.replace(sweep, base=base, out=args.out or sweep.out)
    options = SweepOptions(parse_shard(args.shard), args.max_members, args.on or "", args.hosts)
    if args.dry_run:
        print(dry_run(sweep, options, args.topology))
        return
    if args.on and args.distributed:
        raise UserError(
            "--on and --distributed were both given; expected --hosts for hosts of packs on Ray"
        )
    run_on_hosts(args, lambda: list(map(str, run_sweep(sweep, options))))


def _status(arguments: Sequence[str]) -> None:
    parser = _show_parser("status", "Show the status of each run of a sweep, and the time left.")
    args = parser.parse_args(arguments)

    from vasae_jax.sweep.points import read_members
    from vasae_jax.sweep.status import status_text

    print(status_text(read_members(Path(args.dir))))


def _table(arguments: Sequence[str]) -> None:
    parser = _show_parser("table", "Write the table of a sweep, and print some of its columns.")
    add = parser.add_argument
    add(
        "--sort",
        metavar="KEY",
        help="show the runs that have this column, the best first; by a setting the least first",
    )
    conditions = "show only runs that meet all conditions, such as sae.k=32 or unmasked.fvu<0.3"
    add("--where", nargs="+", default=[], metavar="COND", help=conditions)
    add("--columns", default=COLUMNS, help="columns, or ends of names that only one has")
    args = parser.parse_args(arguments)

    from vasae_jax.sweep.points import read_members, sweep_lock
    from vasae_jax.sweep.table import (
        condition_parts,
        format_rows,
        select_rows,
        table,
        write_table,
    )

    out = Path(args.dir)
    members = read_members(out)
    with sweep_lock(out):
        rows = table(members)
        written = write_table(out, rows)
    keys = [*args.columns.split(","), *filter(None, [args.sort])]
    keys += [condition_parts(text)[0] for text in args.where]
    print(format_rows(select_rows(rows, args.where), list(dict.fromkeys(keys)), args.sort))
    print("written to", *written)


def _plot(arguments: Sequence[str]) -> None:
    what = "Draw the frontier of two measures, and each setting that varies."
    parser = _show_parser("plot", what)
    add = parser.add_argument
    add("--x", default=FRONTIER[0], help="measure on the x axis")
    add("--y", default=FRONTIER[1], help="measure on the y axis")
    add("--by", metavar="KEY", help="setting to colour points by (default: the first that varies)")
    add("--overwrite", action="store_true", help="replace the figures")
    args = parser.parse_args(arguments)

    require_matplotlib()
    from vasae_jax.report.figures.sweep import sweep_figures
    from vasae_jax.sweep.points import read_members, varied
    from vasae_jax.sweep.table import column, table

    out = Path(args.dir)
    members = read_members(out)
    rows = table(members)
    keys = varied([member.config for member in members])
    pair = column(rows, args.x), column(rows, args.y)
    by = column(rows, args.by) if args.by else None
    print(*sweep_figures(rows, keys, pair, out, by, args.overwrite), sep="\n")


def _show_parser(verb: str, description: str) -> VerbParser:
    parser = VerbParser(prog=f"{PROGRAM} {verb}", description=description)
    parser.add_argument("dir", help="directory of a sweep")
    return parser


def _parser() -> VerbParser:
    parser = VerbParser(
        prog=PROGRAM,
        description=__doc__,
        epilog="Settings of vasae train, such as --run.steps=200, may follow; they apply to every "
        "point.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", help="a Python file with sweep = Sweep(...)")
    add("--out", help="directory of the sweep (default: the file's)")
    add("--dry-run", action="store_true", help="print what would be trained, and stop")
    add("--topology", help="with --dry-run: estimate the time on a TPU slice such as v5e:4x4")
    part = "train only part I (from 0) of N equal parts of the runs"
    add("--shard", default="0/1", metavar="I/N", help=part)
    most = "runs of a pack at most; 0: as many as fit in memory"
    add("--max-members", type=at_least(0), default=0, metavar="N", help=most)
    add("--on", metavar="ray|ray://HOST:PORT", help="train packs as Ray tasks")
    add("--hosts", type=int, default=1, help="with --on: hosts per pack")
    add_hosts(parser)
    return parser
