"""``vasae name``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vasae_jax.cli.options import add_mesh, asked_mesh
from vasae_jax.utils.files import refuse_existing, write_bytes


def run(arguments: Sequence[str]) -> None:
    """Print the names of a run's features as a table, and write it."""
    given = _parser().parse_args(arguments)
    source = Path(given.source)
    exported = source.suffix == ".npz"
    home = source.parent if exported else source
    out = Path(given.out) if given.out else home / _file_name(given)
    refuse_existing(out, overwrite=given.overwrite)

    from vasae_jax.dictionary.card import name_table
    from vasae_jax.dictionary.files import read_dictionary
    from vasae_jax.evaluation.publish import publish
    from vasae_jax.training.run import open_trained

    mesh = asked_mesh(given)
    dictionary = (
        read_dictionary(source) if exported else publish(open_trained(given.source, mesh=mesh))[0]
    )
    table = name_table(
        dictionary, given.top, given.features or dictionary.d_sae, given.sort, given.verdict
    )
    write_bytes(out, table.encode())
    print(table)
    print(f"written to {out}")


def _file_name(given: argparse.Namespace) -> str:
    """The table's default name, another for each way to ask for it."""
    verdict = f"-{given.verdict.replace(' ', '-')}" if given.verdict else ""
    return f"names-by-{given.sort}{verdict}-top{given.top}.txt"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae name",
        description="Name features by the tokens at which, or before which, they should fire, "
        "and by the nearest embedding. Prints a table, with what each name holds on held-out "
        "text, and writes it to a file. A name says when a feature fires: it is not an "
        "explanation, not a causal claim, not one-to-one.",
    )
    parser.add_argument("source", help="directory of a run, or an exported dictionary.npz")
    parser.add_argument(
        "--top", type=whole_number, default=5, help="names per feature (default: 5)"
    )
    parser.add_argument(
        "--features",
        type=whole_number,
        default=40,
        help="features to show, 0 for all (default: 40)",
    )
    parser.add_argument(
        "--sort",
        choices=("hold", "fire_rate", "cosine", "feature"),
        default="hold",
        help="order: names hold most, fires most often, best aligned to an embedding, or by "
        "number (default: hold)",
    )
    parser.add_argument(
        "--verdict",
        choices=("holds", "no evidence", "contradicted"),
        help="only features whose names were judged so on held-out rows (default: all)",
    )
    add_mesh(parser)
    parser.add_argument("--out", help="text file (default: next to the source)")
    parser.add_argument("--overwrite", action="store_true", help="replace that file")
    return parser


def whole_number(text: str) -> int:
    """A number from 0; argparse names this function when the text is none."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value
