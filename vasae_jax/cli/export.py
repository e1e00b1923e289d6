"""``vasae export``: write a named dictionary for NumPy or another library."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vasae_jax.cli.options import add_mesh, requested_mesh
from vasae_jax.utils.errors import UserError

if TYPE_CHECKING:
    from vasae_jax.dictionary.dictionary import Dictionary


LAYOUTS = ("npz", "sae_lens", "sparsify", "dictionary_learning", "gemma_scope", "huggingface")


def run(arguments: Sequence[str]) -> None:
    """Write the named dictionary of a run."""
    args = _parser().parse_args(arguments)
    npz = args.layout == "npz"
    out = Path(args.out)
    if npz and out.suffix != ".npz":
        raise UserError(f"--out is {out}; expected a name that ends in .npz")
    if args.push and args.layout != "huggingface":
        raise UserError(f"--push goes with --layout huggingface; found --layout {args.layout}")

    from vasae_jax.dictionary.files import check_outputs, write_dictionary
    from vasae_jax.interop.write import export_layout
    from vasae_jax.utils.hub import upload

    if npz:
        check_outputs(out, args.overwrite)
    if args.best or args.member:
        from vasae_jax.sweep.run import find_run

        args.source = str(find_run(Path(args.source), args.best, args.member))
    dictionary = _read_dictionary(args)
    written = (
        write_dictionary(out, dictionary, args.overwrite)
        if npz
        else export_layout(dictionary, args.layout, out, args.overwrite)
    )
    print("\n".join(map(str, written)))
    if args.push:
        print(upload(out, args.push))


def _read_dictionary(args: argparse.Namespace) -> "Dictionary":
    """Read dictionary.npz, or make the dictionary of a run."""
    from vasae_jax.dictionary.files import read_dictionary
    from vasae_jax.evaluation.publish import publish, with_one_threshold
    from vasae_jax.training.run import open_trained

    if Path(args.source).suffix == ".npz":
        return read_dictionary(args.source)
    run = open_trained(args.source, mesh=requested_mesh(args))
    if args.layout != "gemma_scope" or run.config.sae.activation != "topk":
        return publish(run)[0]
    dictionary, evaluation, _ = publish(with_one_threshold(run))
    print(
        f"one threshold, {dictionary.threshold[0]:.4g}, instead of the {run.config.sae.k} largest: "
        f"variance explained {evaluation.unmasked.variance_explained:.4f}, "
        f"{evaluation.unmasked.l0:.1f} features active per row"
    )
    return dictionary


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae export",
        description="Write a run's named dictionary (weights, names, firing rates, provenance) "
        "as a NumPy file, or its weights in the file layout of another library.",
    )
    add = parser.add_argument
    add("source", help="directory of a run or of a sweep, or an exported dictionary.npz")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--best",
        metavar="KEY",
        help="for a sweep: the run that is best by this column of its table",
    )
    which.add_argument("--member", metavar="ID", help="for a sweep: the run with this id")
    add("--out", required=True, help="dictionary.npz, or a directory for another library's layout")
    add("--layout", choices=LAYOUTS, default="npz", help="file layout (default: %(default)s)")
    add(
        "--push",
        metavar="OWNER/NAME",
        help="also upload to this Hugging Face repository (with --layout huggingface)",
    )
    add_mesh(parser)
    add("--overwrite", action="store_true", help="replace existing files")
    return parser
