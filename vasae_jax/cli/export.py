"""``vasae export``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vasae_jax.cli.options import add_mesh, asked_mesh
from vasae_jax.utils.errors import UserError

if TYPE_CHECKING:
    from vasae_jax.dictionary.dictionary import Dictionary


LAYOUTS = ("npz", "sae_lens", "sparsify", "dictionary_learning", "gemma_scope", "huggingface")


def run(arguments: Sequence[str]) -> None:
    """Write the named dictionary of a run."""
    given = _parser().parse_args(arguments)
    npz = given.layout == "npz"
    out = Path(given.out)
    if npz and out.suffix != ".npz":
        raise UserError(f"--out is {out}; expected a name that ends in .npz")
    if given.push and given.layout != "huggingface":
        raise UserError(f"--push goes with --layout huggingface; found --layout {given.layout}")

    from vasae_jax.dictionary.files import check_outputs, write_dictionary
    from vasae_jax.interop.write import export_layout
    from vasae_jax.utils.hub import push

    if npz:
        check_outputs(out, given.overwrite)
    if given.best or given.member:
        from vasae_jax.sweep.run import find_run

        given.source = str(find_run(Path(given.source), given.best, given.member))
    dictionary = _dictionary(given)
    written = (
        write_dictionary(out, dictionary, given.overwrite)
        if npz
        else export_layout(dictionary, given.layout, out, given.overwrite)
    )
    print("\n".join(map(str, written)))
    if given.push:
        print(push(out, given.push))


def _dictionary(given: argparse.Namespace) -> "Dictionary":
    """The dictionary that is there, or that of the run."""
    from vasae_jax.dictionary.files import read_dictionary
    from vasae_jax.evaluation.publish import publish, with_one_threshold
    from vasae_jax.training.run import open_trained

    if Path(given.source).suffix == ".npz":
        return read_dictionary(given.source)
    run = open_trained(given.source, mesh=asked_mesh(given))
    if given.layout != "gemma_scope" or run.config.sae.activation != "topk":
        return publish(run)[0]
    dictionary, found, _ = publish(with_one_threshold(run))
    print(
        f"one threshold, {dictionary.threshold[0]:.4g}, in the place of the {run.config.sae.k} "
        f"largest: variance explained {found.unmasked.variance_explained:.4f}, "
        f"{found.unmasked.l0:.1f} features fire on a row"
    )
    return dictionary


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae export",
        description="Write a run's named dictionary (weights, names, fire rates and origin), "
        "readable with NumPy alone, or its weights in the layout of another library.",
    )
    parser.add_argument(
        "source", help="directory of a run or of a sweep, or an exported dictionary.npz"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--best", metavar="KEY", help="of a sweep: the run that is best by a column of its table"
    )
    which.add_argument("--member", metavar="ID", help="of a sweep: the run of that id")
    parser.add_argument(
        "--out", required=True, help="dictionary.npz, or a directory for another library's layout"
    )
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="npz", help="file layout (default: %(default)s)"
    )
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="also upload the folder of --layout huggingface to this repository of the hub",
    )
    add_mesh(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    return parser
