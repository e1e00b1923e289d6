"""What a verb needs and may find missing."""

import argparse
import importlib.util
from typing import TYPE_CHECKING, Literal

from vasae_jax.config import MeshConfig
from vasae_jax.utils.errors import UserError

if TYPE_CHECKING:
    from jax.sharding import Mesh

import os
import sys
from collections.abc import Callable

from vasae_jax.cli.main import guarded
from vasae_jax.utils.errors import first_line


def need_matplotlib() -> None:
    """Raise UserError unless figures can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "figures need matplotlib, which is not installed; "
            "expected pip install 'vasae-jax[quickstart]'"
        )


# ``--lm`` and ``--backend`` for the verbs that run a language model.


MODEL_HELP = (
    "the caches' language model (directory, .gguf file or Hugging Face name), to run sentences with"
)


def add_model(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    """Add the two arguments; ``text`` helps with the first."""
    parser.add_argument("--lm", metavar="MODEL", required=required, help=text)
    parser.add_argument(
        "--backend",
        choices=("auto", "flax", "torch"),
        default="auto",
        help="library that runs the model; auto: Flax, or PyTorch if the Flax code lacks the model",
    )


# ``--mesh.data`` and ``--mesh.model`` for the verbs that read a run.


def add_mesh(parser: argparse.ArgumentParser) -> None:
    """Add the two arguments, spelt as ``vasae train`` has them."""
    parser.add_argument(
        "--mesh.data",
        dest="mesh_data",
        type=_auto_or_number,
        metavar="D",
        help="devices that split the rows; auto: all that --mesh.model does not use (default: 1)",
    )
    parser.add_argument(
        "--mesh.model",
        dest="mesh_model",
        type=int,
        metavar="M",
        help="devices that split the features (default: 1)",
    )


def _auto_or_number(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else int(text)


def asked_mesh(given: argparse.Namespace) -> "Mesh | None":
    """The mesh that was asked for, or None where neither argument was given.

    Raises:
        UserError: there are not so many devices.
    """
    data, model = given.mesh_data, given.mesh_model
    if data is None and model is None:
        return None

    from vasae_jax.distributed.mesh import make_mesh

    return make_mesh(MeshConfig(1 if data is None else data, 1 if model is None else model))


# Arguments that join the processes of a command on several hosts.


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

    from vasae_jax.distributed.hosts import Hosts, is_first, joined, others

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
