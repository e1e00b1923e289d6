"""Print the names of features with their evidence on held-out text, and write the table to a file.

A feature is named by the tokens at which, or just before which, it should fire, and by the nearest
token embedding. Each layer name is tested by itself, and one that the held-out text cannot test
stands for no feature. A name says when a feature fires: it is not an explanation, not a causal
claim, not one-to-one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vasae_jax.cli.options import (
    VerbParser,
    add_mesh,
    add_names_by,
    at_least,
    open_dictionary,
)
from vasae_jax.utils.files import refuse_existing, write_bytes


def run(arguments: Sequence[str]) -> None:
    """Print a table of the names of a run's features, and write it to a file."""
    args = _parser().parse_args(arguments)
    source = Path(args.source)
    folder = source.parent if source.suffix == ".npz" else source
    out = Path(args.out) if args.out else folder / _file_name(args)
    refuse_existing(out, overwrite=args.overwrite)

    from vasae_jax.dictionary.card import name_table

    dictionary = open_dictionary(args)
    features = args.features or dictionary.d_sae
    table = name_table(dictionary, args.top, features, args.sort, args.verdict)
    write_bytes(out, table.encode())
    print(table)
    print(f"written to {out}")


def _file_name(args: argparse.Namespace) -> str:
    """The default name of the table's file, which contains the options."""
    verdict = f"-{args.verdict.replace(' ', '-')}" if args.verdict else ""
    return f"names-by-{args.sort}{verdict}-top{args.top}.txt"


def _parser() -> VerbParser:
    parser = VerbParser(prog="vasae name", description=__doc__)
    add = parser.add_argument
    add("source", help="directory of a run, or an exported dictionary.npz")
    add("--top", type=at_least(0), default=5, help="names per feature")
    add("--features", type=at_least(0), default=40, help="features to show; 0: all")
    add(
        "--sort",
        choices=("hold", "fire_rate", "cosine", "feature"),
        default="hold",
        help="order by: how much the first name holds, firing rate, cosine with the nearest "
        "embedding, or feature number",
    )
    verdicts = ("holds", "in part", "does not hold", "untested")
    only = "show only features whose first name has this verdict (default: all)"
    add("--verdict", choices=verdicts, help=only)
    add_names_by(parser)
    add_mesh(parser)
    add("--out", help="text file (default: next to the source)")
    add("--overwrite", action="store_true", help="replace that file")
    return parser
