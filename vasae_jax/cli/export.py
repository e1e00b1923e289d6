"""Write the named dictionary of a run for NumPy, or its weights for another library.

A NumPy file has weights, names, firing rates and provenance. Layouts delphi, neuronpedia and
circuit_tracer hold no weights, but where features fire on held-out text and what they are named.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vasae_jax.cli.options import (
    VerbParser,
    add_mesh,
    add_names_by,
    open_dictionary,
    requested_mesh,
)
from vasae_jax.utils.errors import UserError

if TYPE_CHECKING:
    from vasae_jax.dictionary.dictionary import Dictionary


LAYOUTS = (
    "npz", "sae_lens", "sparsify", "dictionary_learning", "gemma_scope", "huggingface",
    "delphi", "neuronpedia", "circuit_tracer",
)  # fmt: skip
OF_ACTIVITY = LAYOUTS[6:]
"""Layouts that hold what features do on text, so that they are written from a run alone."""


def run(arguments: Sequence[str]) -> None:
    """Write the named dictionary of a run."""
    args = _parser().parse_args(arguments)
    npz = args.layout == "npz"
    out = Path(args.out)
    if npz and out.suffix != ".npz":
        raise UserError(f"--out is {out}; expected a name that ends in .npz")
    if args.public and not args.push:
        raise UserError("--public was given without --push; expected both, or neither")
    if args.push and args.layout != "huggingface":
        raise UserError(f"--push goes with --layout huggingface; found --layout {args.layout}")
    if args.layout in OF_ACTIVITY and Path(args.source).suffix == ".npz":
        raise UserError(
            f"--layout {args.layout} has the text on which features fire; expected a run, found "
            f"{args.source}"
        )

    from vasae_jax.dictionary.files import check_outputs, write_dictionary
    from vasae_jax.interop.libraries import export_layout
    from vasae_jax.utils.hub import upload

    if npz:
        check_outputs(out, args.overwrite)
    if args.best or args.member:
        from vasae_jax.sweep.run import find_run

        args.source = str(find_run(Path(args.source), args.best, args.member))
    if args.layout in OF_ACTIVITY:
        _write_activity(args)
        return
    dictionary = _read_dictionary(args)
    written: tuple[Path, ...]
    if npz:
        written = write_dictionary(out, dictionary, args.overwrite)
    else:
        written = export_layout(dictionary, args.layout, out, args.overwrite)
    print(*written, sep="\n")
    if args.push:
        print(upload(written, args.push, public=args.public))


def _write_activity(args: argparse.Namespace) -> None:
    """Write what a run's features do on held-out text, and what they are named."""
    from vasae_jax.evaluation.activity import run_files
    from vasae_jax.interop.folders import check_folder, write_folder
    from vasae_jax.training.run import open_trained

    check_folder(args.out, args.layout, args.overwrite)
    run = open_trained(args.source, mesh=requested_mesh(args))
    dictionary, content = run_files(run, args.layout, args.names_by)
    print(write_folder(dictionary, content, args.out, args.layout, args.overwrite))


def _read_dictionary(args: argparse.Namespace) -> "Dictionary":
    """The dictionary to write; for gemma_scope a TopK run gets a threshold instead."""
    from vasae_jax.evaluation.publish import publish, with_one_threshold
    from vasae_jax.training.run import open_trained

    if args.layout != "gemma_scope" or Path(args.source).suffix == ".npz":
        return open_dictionary(args)
    run = open_trained(args.source, mesh=requested_mesh(args))
    if run.config.sae.activation != "topk":
        return publish(run, args.names_by)[0]
    dictionary, evaluation, _ = publish(with_one_threshold(run), args.names_by)
    print(
        f"one threshold, {dictionary.threshold[0]:.4g}, instead of the {run.config.sae.k} largest: "
        f"variance explained {evaluation.unmasked.variance_explained:.4f}, "
        f"{evaluation.unmasked.l0:.1f} features active per row"
    )
    return dictionary


def _parser() -> VerbParser:
    parser = VerbParser(prog="vasae export", description=__doc__)
    add = parser.add_argument
    add("source", help="directory of a run or of a sweep, or an exported dictionary.npz")
    which = parser.add_mutually_exclusive_group()
    best = "for a sweep: the run that is best by this measure of its table"
    which.add_argument("--best", metavar="KEY", help=best)
    which.add_argument("--member", metavar="ID", help="for a sweep: the run with this id")
    add("--out", required=True, help="dictionary.npz, or a directory for another library's layout")
    layout = "file layout; the last three are written from a run, not from a dictionary.npz"
    add("--layout", choices=LAYOUTS, default="npz", help=layout)
    push = "also upload the written files to this private Hugging Face repository (with --layout "
    add("--push", metavar="OWNER/NAME", help=f"{push}huggingface)")
    add("--public", action="store_true", help="with --push: to a repository that everyone reads")
    add_names_by(parser)
    add_mesh(parser)
    add("--overwrite", action="store_true", help="replace existing files")
    return parser
