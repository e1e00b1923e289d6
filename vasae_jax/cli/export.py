"""``vasae export``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vasae_jax.cli.mesh import add_mesh, asked_mesh
from vasae_jax.system.errors import UserError

LAYOUTS = ("npz", "sae_lens", "sparsify", "dictionary_learning")


def run(arguments: Sequence[str]) -> None:
    """Write the named dictionary of a run."""
    given = _parser().parse_args(arguments)
    npz = given.layout == "npz"
    out = Path(given.out)
    if npz and out.suffix != ".npz":
        raise UserError(f"--out is {out}; expected a name that ends in .npz")

    from vasae_jax.dictionary.files import check_outputs, read_dictionary, write_dictionary
    from vasae_jax.dictionary.from_run import publish
    from vasae_jax.dictionary.layouts import export_layout
    from vasae_jax.training.trained import open_trained

    if npz:
        check_outputs(out, given.overwrite)
    exported = Path(given.source).suffix == ".npz"
    if given.best or given.member:
        from vasae_jax.sweep.choose import chosen_run

        given.source = str(chosen_run(Path(given.source), given.best, given.member))
    mesh = asked_mesh(given)
    dictionary = (
        read_dictionary(given.source)
        if exported
        else publish(open_trained(given.source, mesh=mesh))[0]
    )
    written = (
        write_dictionary(out, dictionary, given.overwrite)
        if npz
        else export_layout(dictionary, given.layout, out, given.overwrite)
    )
    print("\n".join(map(str, written)))


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
    add_mesh(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    return parser
