"""Arguments that join the processes of a command on several hosts."""

import argparse
import os
import sys
from collections.abc import Callable

from vasae_jax.cli.main import guarded
from vasae_jax.system.errors import UserError, first_line


def add_hosts(parser: argparse.ArgumentParser) -> None:
    """Add ``--distributed`` and what goes with it."""
    add = parser.add_argument
    add(
        "--distributed",
        metavar="auto|HOST:PORT",
        help="auto: ask the TPU pod, Slurm or Open MPI; otherwise the address of process 0",
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


def run_joined(given: argparse.Namespace, body: Callable[[], list[str]]) -> None:
    """Run ``body`` alone, or as one process of several where that was asked; print its lines.

    As one of several a process that fails ends at once, without the leave-taking of JAX's
    runtime, which would wait for processes that wait for this one: they see it gone and end too.
    """
    if not given.distributed:
        if given.process_id is not None or given.processes is not None:
            raise UserError(
                "--process-id and --processes were given without --distributed; expected "
                "--distributed=HOST:PORT of process 0"
            )
        print(*body(), sep="\n")
        return
    code = guarded(lambda: _joined(given, body))
    if code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _joined(given: argparse.Namespace, body: Callable[[], list[str]]) -> None:
    import jax

    from vasae_jax.devices.distributed import Hosts, is_first, joined, others

    hosts = Hosts(
        given.distributed,
        given.process_id,
        given.processes,
        given.connect_timeout,
        given.heartbeat_timeout,
    )
    rest = "another process of the run"
    try:
        with joined(hosts):
            rest = others()
            lines = body()
            if is_first():
                print(*lines, sep="\n")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise UserError(
            f"process {jax.process_index()} lost {rest} "
            f"({first_line(error)}); run the same command on every host to resume "
            "from the last checkpoint"
        ) from error
