"""Command-line options that several verbs share."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from vasae_jax.cli.main import exit_code
from vasae_jax.config import DataConfig, MeshConfig
from vasae_jax.utils.errors import UserError, first_line

if TYPE_CHECKING:
    from jax.sharding import Mesh

MODEL_HELP = (
    "the caches' language model (directory, .gguf file or Hugging Face name), to run sentences with"
)


def require_matplotlib() -> None:
    """Raise UserError if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "figures need matplotlib, which is not installed; "
            "expected pip install 'vasae-jax[quickstart]'"
        )


def at_least(least: int) -> Callable[[str], int]:
    """A type for argparse: numbers of at least ``least``."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is below {least}")
        return int(text)

    return number


def add_split(parser: argparse.ArgumentParser, text: str, default: str = "heldout") -> None:
    """Add ``--split``, with the help ``text``."""
    text += " (default: %(default)s)"
    parser.add_argument("--split", choices=("heldout", "train"), default=default, help=text)


def add_mask(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip-positions`` and ``--max-norm``, the rows to leave out."""
    parser.add_argument(
        "--skip-positions",
        type=int,
        default=DataConfig.skip_positions,
        metavar="N",
        help="leave out rows at the first N positions of a window (default: %(default)s)",
    )
    parser.add_argument(
        "--max-norm",
        type=float,
        default=DataConfig.max_norm,
        metavar="X",
        help="leave out rows longer than X median norms; 0 keeps all (default: %(default)s)",
    )


def add_model(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    """Add ``--lm``, with the help ``text``, and ``--backend``."""
    parser.add_argument("--lm", metavar="MODEL", required=required, help=text)
    parser.add_argument(
        "--backend",
        choices=("auto", "flax", "torch"),
        default="auto",
        help="library that runs the model; auto: Flax, or PyTorch for models that Flax lacks",
    )


def add_mesh(parser: argparse.ArgumentParser) -> None:
    """Add ``--mesh.data`` and ``--mesh.model``, for verbs that read a run."""
    parser.add_argument(
        "--mesh.data",
        dest="mesh_data",
        type=_auto_or_number,
        metavar="D",
        help="devices that split the rows; auto: all that --mesh.model leaves (default: 1)",
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


def requested_mesh(args: argparse.Namespace) -> "Mesh | None":
    """The mesh of the options of :func:`add_mesh`; None if neither was given.

    Raises:
        UserError: there are not enough devices.
    """
    data, model = args.mesh_data, args.mesh_model
    if data is None and model is None:
        return None

    from vasae_jax.distributed.mesh import make_mesh

    return make_mesh(MeshConfig(1 if data is None else data, 1 if model is None else model))


def add_hosts(parser: argparse.ArgumentParser) -> None:
    """Add ``--distributed`` and the options that go with it."""
    add = parser.add_argument
    add(
        "--distributed",
        metavar="auto|HOST:PORT",
        help="address of process 0; auto: ask the TPU pod, Slurm or Open MPI",
    )
    add("--process-id", type=int, help="number of this process, from 0 (not with auto)")
    add("--processes", type=int, help="number of processes (not with auto)")
    add(
        "--connect-timeout",
        type=int,
        default=300,
        help="seconds to wait for the other processes at the start (default: %(default)s)",
    )
    add(
        "--heartbeat-timeout",
        type=int,
        default=100,
        help="seconds of silence after which a process counts as lost (default: %(default)s)",
    )


def run_on_hosts(args: argparse.Namespace, work: Callable[[], list[str]]) -> None:
    """Run ``work`` as one of the processes of :func:`add_hosts`, or alone; print its lines.

    A process of several that fails ends at once: to shut JAX's runtime down it would wait for
    processes that wait for it. The others notice that it is lost and end too.
    """
    if not args.distributed:
        if args.process_id is not None or args.processes is not None:
            raise UserError(
                "--process-id and --processes were given without --distributed; expected "
                "--distributed=HOST:PORT of process 0"
            )
        print(*work(), sep="\n")
        return
    if code := exit_code(lambda: _run_connected(args, work)):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_connected(args: argparse.Namespace, work: Callable[[], list[str]]) -> None:
    import jax

    from vasae_jax.distributed.hosts import Hosts, is_first, joined, other_processes

    hosts = Hosts(
        args.distributed,
        args.process_id,
        args.processes,
        args.connect_timeout,
        args.heartbeat_timeout,
    )
    others = "another process of the run"
    try:
        with joined(hosts):
            others = other_processes()
            lines = work()
            if is_first():
                print(*lines, sep="\n")
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise UserError(
            f"process {jax.process_index()} lost {others} "
            f"({first_line(error)}); run the same command on every host to resume "
            "from the last checkpoint"
        ) from error
