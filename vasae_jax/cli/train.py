"""``vasae train``."""

import argparse
from collections.abc import Sequence

from vasae_jax.cli.options import add_hosts, run_joined
from vasae_jax.config import Config
from vasae_jax.config.overrides import load_runs, parse_overrides

PROGRAM = "vasae train [CONFIG.py]"
Asked = Config | list[Config]
"""A run, or a pack of them."""


def run(arguments: Sequence[str]) -> None:
    """Train the run, or the pack, of a config file, or of the defaults; overrides go to all.

    As one of several processes it ends the process itself, where it fails.
    """
    parser = _parser()
    if {"-h", "--help"} & set(arguments):
        parser.print_help()
    given, rest = parser.parse_known_args(list(arguments))
    named = bool(rest) and not rest[0].startswith("-")
    default = load_runs(rest.pop(0)) if named else Config()
    asked: Asked = (
        [parse_overrides(each, rest, PROGRAM) for each in default]
        if isinstance(default, list)
        else parse_overrides(default, rest, PROGRAM)
    )
    if given.dry_run:
        _check(asked)
        print(_dry_run(asked))
        return
    if (given.distributed, given.process_id, given.processes) == (None, None, None):
        _check(asked)
    run_joined(given, lambda: _train(asked))


def _check(asked: Asked) -> None:
    """Raise the UserError that stands against settings or cache before JAX is loaded for it.

    Of several processes none may fail alone: they check together, once they are joined.
    """
    from vasae_jax.cache import Cache
    from vasae_jax.training.checks import check_cache, check_settings

    for config in asked if isinstance(asked, list) else [asked]:
        check_settings(config)
        check_cache(config, Cache.open(config.data.cache))


def _dry_run(asked: Asked) -> str:
    """What the run would take of each device's memory; nothing is compiled or written."""
    from vasae_jax.training.shapes import planned

    return str(planned(asked if isinstance(asked, list) else [asked]))


def _train(asked: Asked) -> list[str]:
    """The directories of what was asked for, trained."""
    from vasae_jax.training.loop import train, train_pack  # this loads JAX

    paths = train_pack(asked) if isinstance(asked, list) else [train(asked)]
    return list(map(str, paths))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae train",
        description="Train the run of CONFIG.py, or the pack of runs that it lists. A stopped run "
        "resumes when its command is run again. --distributed and what follows it join the "
        "processes of a run on several hosts: run the same command on each. All settings of the "
        "run follow below.",
        usage="vasae train [CONFIG.py] [arguments]",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything and print the memory that the run takes, a device; compile and "
        "write nothing",
    )
    add_hosts(parser)
    return parser
