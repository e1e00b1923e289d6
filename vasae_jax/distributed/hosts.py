"""One run on many hosts: the same command on each, joined by JAX's own runtime.

Whatever one process finds wrong it tells the others before any of them waits for it, so
that all end with the same sentence. After that a process that is lost ends the others: its
connections break, or it misses its heartbeat.
"""

import contextlib
import glob
import importlib.util
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from vasae_jax.config import Config
from vasae_jax.config.overrides import flatten
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.signals import SIGNALS, StopRequest

T = TypeVar("T")
PREEMPTION = 15
"""SIGTERM: the notice that JAX's runtime spreads to all processes."""


@dataclass(frozen=True)
class Hosts:
    """How the processes of a run find each other.

    Attributes:
        coordinator: ``HOST:PORT`` of process 0, or ``auto`` where the platform says all
            (TPU pods, Slurm, Open MPI); empty for a run of one process.
        process_id: number of this process, from 0; None with ``auto``.
        processes: how many there are; None with ``auto``.
        connect_seconds: how long to wait for the others at the start.
        heartbeat_seconds: silence after which a process counts as lost.
    """

    coordinator: str = ""
    process_id: int | None = None
    processes: int | None = None
    connect_seconds: int = 300
    heartbeat_seconds: int = 100

    def check(self) -> None:
        """Raise UserError for addresses and numbers that cannot be used."""
        given = self.process_id is not None or self.processes is not None
        if self.coordinator in ("", "auto"):
            if given:
                raise UserError(
                    f"--process-id and --processes were given with --distributed="
                    f"{self.coordinator or 'nothing'}; expected the HOST:PORT of process 0"
                )
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
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
    """Be one of the processes of a run while open; no device may be in use before.

    An error leaves the runtime as it is: to take leave is to wait for the others, who may
    be waiting for this process. The caller ends the process at once.

    Raises:
        UserError: the numbers do not fit, or the others were not there in time.
    """
    hosts.check()
    logging.getLogger("jax._src.distributed").setLevel(logging.ERROR)
    auto = hosts.coordinator == "auto"
    # JAX's own time limit aborts the process with a stack trace, so ours comes first.
    limit = threading.Timer(hosts.connect_seconds, _give_up, [hosts])
    limit.daemon = True
    limit.start()
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
        raise UserError(_no_start(hosts, str(error).strip().split("\n")[0])) from error
    finally:
        limit.cancel()
    yield
    jax.distributed.shutdown()


def is_first() -> bool:
    """Whether this process writes what all share: the run directory, its metrics, its log."""
    return jax.process_index() == 0


def raise_on_all(work: Callable[[], T]) -> T:
    """What ``work`` gives; where it fails on some process, all raise that process's UserError."""
    if jax.process_count() == 1:
        return work()
    found, sentence = [], ""
    try:
        found = [work()]
    except UserError as error:
        sentence = str(error)
    for process, said in enumerate(_gather(sentence)):
        if said:
            own = process == jax.process_index()
            raise UserError(said if own else f"process {process}: {said}")
    return found[0]


def first_then_all(work: Callable[[], T]) -> T:
    """What ``work`` gives, done by the first process before any other: it may leave files."""
    if jax.process_count() == 1:
        return work()
    found = raise_on_all(lambda: [work()] if is_first() else [])
    return raise_on_all(lambda: found[0] if found else work())


def broadcast_from_first(work: Callable[[], str]) -> str:
    """What ``work`` says, which the first process does for all."""
    if jax.process_count() == 1:
        return work()
    return _gather(raise_on_all(lambda: work() if is_first() else ""))[0]


def host_names() -> list[str]:
    """The name of each process's host, in order of process."""
    name = socket.gethostname()
    return [name] if jax.process_count() == 1 else _gather(name)


def others() -> str:
    """The other processes of the run and their hosts, in words: whom a lost one is among."""
    own = jax.process_index()
    named = [f"process {n} on {host}" for n, host in enumerate(host_names()) if n != own]
    return named[0] if len(named) == 1 else f"one of {', '.join(named)}"


def check_same(configs: Sequence[Config], cache_digest: str) -> None:
    """Raise UserError on every process unless all have the same runs and one cache's content.

    The cache may lie at another place on each host.
    """
    if jax.process_count() == 1:
        return
    # The number of runs comes first: it is how many settings follow.
    said: list[tuple[str, Any]] = [("the number of runs", len(configs))]
    said += [pair for config in configs for pair in flatten(config).items()]
    said.append(("the cache's digest", cache_digest))
    for name, value in said:
        if name == "data.cache":
            continue
        values = _gather(repr(value))
        for process, other in enumerate(values):
            if other != values[0]:
                raise UserError(
                    f"hosts disagree on {name}: process 0 has {values[0]} and process {process} "
                    f"has {other}; expected the same on all"
                )


class Stop:
    """Tells between two steps whether all processes are to stop after this one.

    One process alone notes SIGINT and SIGTERM itself. Of several any may get SIGTERM, the
    notice of a preemption: JAX's runtime then agrees on the step at which all stop.
    """

    def __init__(self) -> None:
        self._alone = jax.process_count() == 1
        self._request = StopRequest(SIGNALS if self._alone else ())

    def __enter__(self) -> "Stop":
        """Take notice of signals."""
        self._request.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Give signals back their usual effect."""
        self._request.__exit__(None, None, None)

    @property
    def asked(self) -> int | None:
        """The signal that came to a process that is alone; of several none is known of early."""
        return self._request.signal

    def after(self, step: int) -> int | None:
        """The signal to stop for after ``step``; to be asked after every step."""
        if self._alone:
            return self.asked
        return PREEMPTION if multihost_utils.reached_preemption_sync_point(step) else None


def _gather(text: str) -> list[str]:
    """Every process's ``text``, in order of process."""
    data = np.frombuffer(text.encode(), np.uint8)
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(data)))).reshape(-1)
    padded = np.zeros(max(int(lengths.max()), 1), np.uint8)
    padded[: len(data)] = data
    found = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(row[:size]).decode() for row, size in zip(found, lengths, strict=True)]


def _give_up(hosts: Hosts) -> None:
    waited = f"not all processes were there after {hosts.connect_seconds} s"
    print(f"vasae: {_no_start(hosts, waited)}", file=sys.stderr, flush=True)
    os._exit(2)  # the main thread is inside the runtime and cannot be interrupted


def _no_start(hosts: Hosts, reason: str) -> str:
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


# What a command settles about JAX before it is loaded, through the variables that JAX reads.


_PCI_VENDORS = "/sys/bus/pci/devices/*/vendor"
_TPU_NODES = ("/dev/accel*", "/dev/vfio/[0-9]*")
_GOOGLE = "0x1ae0"
_NETWORK = "0x0042"
"""Google's network card, which its machines without a TPU have too."""
_SAID = ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", "TPU_LIBRARY_PATH", "TPU_NAME")
"""Set by a user, or by a platform, that has its own mind about TPUs."""


def pass_over_absent_tpu() -> None:
    """Keep JAX from trying a TPU that is not there, which takes time and prints warnings.

    It would try wherever libtpu is installed, as for ``tools/aot.py``. Nothing happens where a
    plugin of JAX's is installed, since its devices would have to be named too.
    """
    if "jax" in sys.modules or any(name in os.environ for name in _SAID):
        return
    plugins, tpu = map(importlib.util.find_spec, ("jax_plugins", "libtpu"))
    if tpu is not None and plugins is None and not _may_have_tpu():
        os.environ["JAX_PLATFORMS"] = "cpu"


def _may_have_tpu() -> bool:
    if any(glob.glob(nodes) for nodes in _TPU_NODES):
        return True
    return any(
        _word(vendor) == _GOOGLE and _word(vendor.with_name("device")) != _NETWORK
        for vendor in map(Path, glob.glob(_PCI_VENDORS))
    )


def _word(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
