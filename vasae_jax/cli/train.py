"""``vasae train``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vasae_jax.cli.main import guarded
from vasae_jax.config import Config
from vasae_jax.config.overrides import load_runs, parse_overrides
from vasae_jax.system.errors import UserError

PROGRAM = "vasae train [CONFIG.py]"
Asked = Config | list[Config]
"""A run, or a pack of them."""


def run(arguments: Sequence[str]) -> None:
    """Train the run, or the pack, of a config file, or of the defaults; overrides go to all.

    As one of several processes it ends the process itself: see :func:`_as_one_of_many`.
    """
    parser = _own_parser()
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
    elif given.distributed:
        _as_one_of_many(asked, given)
    elif given.process_id is not None or given.processes is not None:
        raise UserError(
            "--process-id and --processes were given without --distributed; expected "
            "--distributed=HOST:PORT of process 0"
        )
    else:
        _check(asked)
        print(*_train(asked), sep="\n")


def _check(asked: Asked) -> None:
    """Raise the UserError that stands against settings or cache before JAX is loaded for it.

    Of several processes none may fail alone: they check together, once they are joined.
    """
    from vasae_jax.cache import Cache
    from vasae_jax.training.checks import check_cache, check_settings

    for config in asked if isinstance(asked, list) else [asked]:
        check_settings(config)
        check_cache(config, Cache.open(config.data.cache))


def _train(asked: Asked) -> list[Path]:
    """The directories of what was asked for, trained."""
    from vasae_jax.training.loop import train  # this loads JAX
    from vasae_jax.training.pack.loop import train_pack

    return train_pack(asked) if isinstance(asked, list) else [train(asked)]


def _dry_run(asked: Asked) -> str:
    """What the run would take of each device's memory; nothing is compiled or written."""
    from vasae_jax.training.loop import planned

    return str(planned(asked if isinstance(asked, list) else [asked]))


def _as_one_of_many(asked: Asked, given: argparse.Namespace) -> None:
    """Train as one process of several.

    A process that fails ends at once, without the leave-taking of JAX's runtime, which would
    wait for processes that wait for this one: they see it gone and end too.
    """
    import jax

    from vasae_jax.devices.distributed import Hosts, is_first, joined, others

    hosts = Hosts(
        given.distributed,
        given.process_id,
        given.processes,
        given.connect_timeout,
        given.heartbeat_timeout,
    )

    def body() -> None:
        rest = "another process of the run"
        try:
            with joined(hosts):
                rest = others()
                paths = _train(asked)
                if is_first():
                    print(*paths, sep="\n")
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            raise UserError(
                f"process {jax.process_index()} lost {rest} "
                f"({str(error).splitlines()[0]}); run the same command on every host to resume "
                "from the last checkpoint"
            ) from error

    code = guarded(body)
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _own_parser() -> argparse.ArgumentParser:
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
    add = parser.add_argument
    add(
        "--distributed",
        metavar="auto|HOST:PORT",
        help="auto: ask the TPU pod, Slurm or Open MPI; otherwise the address of process 0",
    )
    add(
        "--dry-run",
        action="store_true",
        help="check everything and print the memory that the run takes, a device; compile and "
        "write nothing",
    )
    add("--process-id", type=int, help="number of this process, from 0 (not with auto)")
    add("--processes", type=int, help="number of processes (not with auto)")
    add(
        "--connect-timeout",
        type=int,
        default=300,
        help="seconds to wait for the other processes at the start (default: 300)",
    )
    add(
        "--heartbeat-timeout",
        type=int,
        default=100,
        help="seconds of silence after which a process counts as lost (default: 100)",
    )
    return parser
