"""A run on several hosts: the same command on each, connected by JAX's distributed runtime.

Errors found by one process during the start are raised on all, before any process waits for
another. Once the run is going, a lost process ends the others: its connections break, or its
heartbeat stops.
"""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from vasae_jax.config import Config
from vasae_jax.config.overrides import flatten
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.signals import SIGNALS, StopRequest
from vasae_jax.utils.streams import note

T = TypeVar("T")
PREEMPTION = 15
"""SIGTERM, which JAX's runtime passes on from one process to all."""


@dataclass(frozen=True)
class Hosts:
    """How the processes of a run find each other.

    Attributes:
        coordinator: ``HOST:PORT`` of process 0, or ``auto`` on TPU pods, Slurm and Open MPI,
            which know it; empty for a run of one process.
        process_id: number of this process, from 0; None with ``auto``.
        processes: number of processes; None with ``auto``.
        connect_seconds: how long to wait at the start for the other processes.
        heartbeat_seconds: silence after which a process counts as lost.
    """

    coordinator: str = ""
    process_id: int | None = None
    processes: int | None = None
    connect_seconds: int = 300
    heartbeat_seconds: int = 100

    def check(self) -> None:
        """Raise UserError for addresses and numbers that cannot be used."""
        numbered = self.process_id is not None or self.processes is not None
        if self.coordinator in ("", "auto"):
            if numbered:
                raise UserError(
                    f"--process-id and --processes were given with --distributed="
                    f"{self.coordinator or 'nothing'}; expected the HOST:PORT of process 0"
                )
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise UserError(
                f"--distributed is {self.coordinator!r}; expected auto or HOST:PORT of process 0"
            )
        if self.process_id is None or self.processes is None:
            raise UserError(
                f"--distributed={self.coordinator} lacks --process-id or --processes; expected both"
            )
        if not 0 <= self.process_id < self.processes:
            raise UserError(
                f"--process-id is {self.process_id} of --processes={self.processes}; expected "
                f"0 to {self.processes - 1}"
            )


@contextlib.contextmanager
def joined(hosts: Hosts) -> Iterator[None]:
    """Connect this process to the others of its run; JAX must not have used a device before.

    After an error the connection stays open, because closing it waits for the other processes,
    which may be waiting for this one. The caller must end the process at once.

    Raises:
        UserError: the addresses or numbers are wrong, or not all processes connected in time.
    """
    hosts.check()
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    auto = hosts.coordinator == "auto"
    # JAX's own time limit aborts the process with a stack trace, so ours comes first.
    timer = threading.Timer(hosts.connect_seconds, _exit_unconnected, [hosts])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            None if auto else hosts.coordinator,
            hosts.processes,
            hosts.process_id,
            cluster_detection_method=None if auto else "deactivate",
            initialization_timeout=hosts.connect_seconds + 60,
            heartbeat_timeout_seconds=hosts.heartbeat_seconds,
            shutdown_timeout_seconds=hosts.heartbeat_seconds,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(_not_connected(hosts, first_line(error))) from error
    finally:
        timer.cancel()
    yield
    jax.distributed.shutdown()


def is_first() -> bool:
    """Whether this is process 0, which writes the run directory and the log for all."""
    return jax.process_index() == 0


@contextlib.contextmanager
def raise_on_all() -> Iterator[None]:
    """Raise a UserError of any process's block on all processes, once each has left its block."""
    if jax.process_count() == 1:
        yield
        return
    message = ""
    try:
        yield
    except UserError as error:
        message = str(error)
    for process, text in enumerate(_gather(message)):
        if text:
            here = process == jax.process_index()
            raise UserError(text if here else f"process {process}: {text}")


def first_then_others(work: Callable[[], T]) -> T:
    """Call ``work`` on process 0, then on the others, which find the files that it has written.

    Returns:
        What ``work`` returned on this process.

    Raises:
        UserError: on all processes, if ``work`` fails on any.
    """
    if jax.process_count() == 1:
        return work()
    results = []
    for turn in (True, False):
        with raise_on_all():
            if is_first() == turn:
                results = [work()]
    return results[0]


def broadcast_from_first(work: Callable[[], str]) -> str:
    """Call ``work`` on process 0 alone and return its text on every process.

    Raises:
        UserError: on all processes, if ``work`` fails.
    """
    if jax.process_count() == 1:
        return work()
    with raise_on_all():
        text = work() if is_first() else ""
    return _gather(text)[0]


def host_names() -> list[str]:
    """The host name of each process, in order of process number."""
    name = socket.gethostname()
    return [name] if jax.process_count() == 1 else _gather(name)


def other_processes() -> str:
    """The other processes and their hosts in words, for the message that one of them is lost."""
    names = [
        f"process {process} on {host}"
        for process, host in enumerate(host_names())
        if process != jax.process_index()
    ]
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def check_same_on_all(configs: Sequence[Config], cache_digest: str) -> None:
    """Check that every process has the same settings and a cache with the same content.

    The cache's path may differ between hosts.

    Raises:
        UserError: on all processes, naming the first setting that differs.
    """
    if jax.process_count() == 1:
        return
    # The number of runs is compared first, since it decides how many settings follow.
    values: list[tuple[str, Any]] = [("the number of runs", len(configs))]
    values += [pair for config in configs for pair in flatten(config).items()]
    values.append(("the cache's digest", cache_digest))
    for name, value in values:
        if name == "data.cache":
            continue
        first, *others = _gather(repr(value))
        for process, other in enumerate(others, start=1):
            if other != first:
                raise UserError(
                    f"hosts disagree on {name}: process 0 has {first} and process {process} "
                    f"has {other}; expected the same on all"
                )


class StopOnAll:
    """Makes all processes of a run stop after the same step; a context manager.

    A run of one process handles SIGINT and SIGTERM itself. With several processes any one may
    receive SIGTERM, which announces a preemption: JAX's runtime then agrees on a step for all.
    """

    def __init__(self) -> None:
        self._alone = jax.process_count() == 1
        self._request = StopRequest(SIGNALS if self._alone else ())

    def __enter__(self) -> "StopOnAll":
        self._request.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._request.__exit__(None, None, None)

    @property
    def requested(self) -> int | None:
        """The signal received so far by a run of one process; always None with several."""
        return self._request.signal

    def after(self, step: int) -> int | None:
        """The signal to stop for, or None to go on; every process must ask after every step."""
        if self._alone:
            return self.requested
        return PREEMPTION if multihost_utils.reached_preemption_sync_point(step) else None


def _gather(text: str) -> list[str]:
    """The ``text`` of every process, in order of process number."""
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(data)))).reshape(-1)
    padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
    padded[: len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row[:length]).decode() for row, length in zip(rows, lengths, strict=True)]


def _exit_unconnected(hosts: Hosts) -> None:
    reason = f"not all processes were there after {hosts.connect_seconds} s"
    note(f"vasae: {_not_connected(hosts, reason)}")
    os._exit(2)  # the main thread is inside the runtime and cannot be interrupted


def _not_connected(hosts: Hosts, reason: str) -> str:
    if hosts.coordinator == "auto":
        return (
            f"--distributed=auto could not join a cluster ({reason}); expected a TPU pod, Slurm "
            "or Open MPI, or else the HOST:PORT of process 0"
        )
    return (
        f"process {hosts.process_id} of {hosts.processes} could not join the run at "
        f"{hosts.coordinator} ({reason}); expected the same command on every host, each with "
        "its own --process-id"
    )
