"""Command-line options that several verbs share."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vasae_jax.config import DataConfig, MeshConfig
from vasae_jax.utils.ending import exit_code
from vasae_jax.utils.errors import UserError, first_line

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from vasae_jax.dictionary.dictionary import Dictionary
    from vasae_jax.distributed.hosts import Hosts

CACHE_HELP = "the cache: a directory or a gs:// or s3:// URL"
MODEL_HELP = (
    "the caches' language model (directory, .gguf file or Hugging Face name), to run sentences with"
)


class VerbParser(argparse.ArgumentParser):
    """The parser of a verb; its help states the default of every option that has one."""

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an option, with its default in its help."""
        if options.get("default") not in (None, "", [], argparse.SUPPRESS):
            options["help"] += " (default: %(default)s)"
        return super().add_argument(*names, **options)


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
    parser.add_argument("--split", choices=("heldout", "train"), default=default, help=text)


def add_mask(parser: argparse.ArgumentParser) -> None:
    """Add ``--skip-positions`` and ``--max-norm``, the rows to leave out."""
    add, defaults = parser.add_argument, DataConfig()
    first = "leave out rows at the first N positions of a window"
    add("--skip-positions", type=int, default=defaults.skip_positions, metavar="N", help=first)
    longest = "leave out rows longer than X median norms; 0 keeps all"
    add("--max-norm", type=float, default=defaults.max_norm, metavar="X", help=longest)


def add_model(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    """Add ``--lm``, with the help ``text``, and ``--backend``."""
    parser.add_argument("--lm", metavar="MODEL", required=required, help=text)
    library = "library that runs the model; auto: Flax, or PyTorch for models that Flax lacks"
    backends = ("auto", "flax", "torch")
    parser.add_argument("--backend", choices=backends, default="auto", help=library)


def add_mesh(parser: argparse.ArgumentParser) -> None:
    """Add ``--mesh.data`` and ``--mesh.model``, for verbs that read a run."""
    add = parser.add_argument
    rows = "devices that split the rows; auto: all that --mesh.model leaves (default: 1)"
    add("--mesh.data", dest="mesh_data", type=_auto_or_number, metavar="D", help=rows)
    features = "devices that split the features (default: 1)"
    add("--mesh.model", dest="mesh_model", type=int, metavar="M", help=features)


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


def add_names_by(parser: argparse.ArgumentParser) -> None:
    """Add ``--names-by``, for verbs that name a run's features."""
    text = (
        "how layer names are chosen; evidence: by where features fire on a sample of training "
        "rows; weights: by weights and layer anchors alone, without a pass over rows"
    )
    parser.add_argument(
        "--names-by", choices=("evidence", "weights"), default="evidence", help=text
    )


def open_dictionary(args: argparse.Namespace) -> "Dictionary":
    """Read the dictionary.npz ``args.source``, or make the dictionary of that run."""
    from vasae_jax.dictionary.files import read_dictionary
    from vasae_jax.evaluation.publish import publish
    from vasae_jax.training.run import open_trained

    if Path(args.source).suffix == ".npz":
        if args.names_by != "evidence":
            raise UserError(
                f"--names-by {args.names_by} goes with a run; found {args.source}, whose names are "
                "chosen already"
            )
        return read_dictionary(args.source)
    return publish(open_trained(args.source, mesh=requested_mesh(args)), args.names_by)[0]


def add_hosts(parser: argparse.ArgumentParser) -> None:
    """Add ``--distributed`` and the options that go with it."""
    add = parser.add_argument
    address = "address of process 0; auto: ask the TPU pod, Slurm or Open MPI"
    add("--distributed", default="", metavar="auto|HOST:PORT", help=address)
    add("--process-id", type=int, help="number of this process, from 0 (not with auto)")
    add("--processes", type=int, help="number of processes (not with auto)")
    add("--connect-timeout", type=int, default=300, help="seconds to wait for the other processes")
    silence = "seconds of silence after which a process counts as lost"
    add("--heartbeat-timeout", type=int, default=100, help=silence)


def run_on_hosts(args: argparse.Namespace, work: Callable[[], list[str]]) -> None:
    """Run ``work`` as one of the processes of :func:`add_hosts`, or alone; print its lines.

    A process of several that fails ends at once: to shut JAX's runtime down it would wait for
    processes that wait for it. The others notice that it is lost and end too.
    """
    from vasae_jax.distributed.hosts import Hosts

    timeouts = args.connect_timeout, args.heartbeat_timeout
    hosts = Hosts(args.distributed, args.process_id, args.processes, *timeouts)
    if not args.distributed:
        hosts.check()
        print(*work(), sep="\n")
    elif code := exit_code(lambda: _run_connected(hosts, work)):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run_connected(hosts: "Hosts", work: Callable[[], list[str]]) -> None:
    import jax

    from vasae_jax.distributed.hosts import is_first, joined, other_processes

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
            f"process {jax.process_index()} lost {others} ({first_line(error)}); run the same "
            "command on every host to resume from the last checkpoint"
        ) from error
