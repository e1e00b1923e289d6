"""Show, verify or finish an activation cache, make one of other rows, or export its rows."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vasae_jax.cli.options import CACHE_HELP, VerbParser, add_split
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.shown import shown

if TYPE_CHECKING:
    from vasae_jax.extract.model import VocabularySource


def run(arguments: Sequence[str]) -> None:
    """Run the action that the first argument names."""
    args = _parser().parse_args(arguments)
    args.action(args)


def _info(args: argparse.Namespace) -> None:
    """Print what a cache contains."""
    from vasae_jax import cache

    print(cache.info(args.url))


def _finish(args: argparse.Namespace) -> None:
    """Join the parts of an extraction with --shard."""
    from vasae_jax import cache

    rows = sum(split.rows for split in cache.finish(args.url).splits.values())
    print(f"{args.url}: complete, {rows:,} rows")


def _verify(args: argparse.Namespace) -> None:
    """Read and check every byte of a cache.

    Said beside: how much of the held-out text lies in runs of 64 tokens that training has.
    """
    from vasae_jax import cache
    from vasae_jax.anchor.layer_anchors import problems as anchor_problems

    problems = cache.verify(args.url) + anchor_problems(cache.Cache.open(args.url))
    if problems:
        print(*map(shown, problems), sep="\n")
        raise UserError(f"{args.url} has {len(problems)} problem(s); expected none")
    print(f"{args.url}: every array, count and digest is correct")
    print(cache.overlap(cache.Cache.open(args.url)))


def _import(args: argparse.Namespace) -> None:
    """Make a cache of rows that another program extracted.

    Of the model only the embeddings, the final norm and the token strings are read. docs/cache.md
    describes the sources.
    """
    if not 0 < args.heldout_share < 1:
        raise UserError(f"--heldout-share is {args.heldout_share}; expected over 0 and below 1")

    from vasae_jax.cache import Cache, overlap
    from vasae_jax.extract.import_rows import store_rows
    from vasae_jax.extract.pipeline import Settings
    from vasae_jax.extract.row_files import open_rows
    from vasae_jax.extract.row_places import Order

    rows = open_rows(
        args.source,
        args.kind,
        context_length=args.context_length,
        layer=args.layer,
        tokens=args.tokens,
        shuffled=args.shuffled,
    )
    site = rows.site if args.layer is None else Site(args.layer)
    if site is None:
        raise UserError(f"{args.source} does not say its rows' layer; expected --layer")
    settings = Settings(
        heldout_share=args.heldout_share,
        dtype=args.dtype,
        shard_rows=args.shard_rows,
        chunk_rows=args.chunk_rows,
    )
    manifest = store_rows(
        rows,
        _load_embeddings(args.model),
        args.out,
        site,
        settings,
        order=Order(args.first_position, args.shuffled),
        overwrite=args.overwrite,
    )
    counts = ", ".join(f"{split} {info.rows:,} rows" for split, info in manifest.splits.items())
    padding = rows.shape[0] * rows.shape[1] - sum(info.rows for info in manifest.splits.values())
    left_out = f"; {padding:,} of padding left out" if padding else ""
    print(f"{args.out}: {site}; {counts}{left_out}")
    print(overlap(Cache.open(args.out)))


def _load_embeddings(source: str) -> "VocabularySource":
    """The model's embeddings and unembedding, read with NumPy or, if that fails, PyTorch."""
    from vasae_jax.lm.load import load_embeddings
    from vasae_jax.lm.spec import UnknownArchitecture

    try:
        return load_embeddings(source)
    except UnknownArchitecture:
        from vasae_jax.extract.torch import TorchLM, best_device

        return TorchLM(source, best_device(), "float32")


def _export(args: argparse.Namespace) -> None:
    """Write the rows of a layer as NumPy files.

    These are rows.npy (float32), with tokens.npy, positions.npy and docs.npy.
    """
    from vasae_jax.cache import Cache
    from vasae_jax.extract.import_rows import export_rows

    cache = Cache.open(args.url)
    sites = cache.manifest.sites
    if args.layer is None and len(sites) > 1:
        raise UserError(f"{args.url} has {', '.join(map(str, sites))}; expected --layer")
    site = sites[0] if args.layer is None else args.layer
    print(*export_rows(cache, site, args.split, Path(args.out), args.overwrite), sep="\n")


def _parser() -> VerbParser:
    parser = VerbParser(prog="vasae cache", description=__doc__)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for name, action, add_options in (
        ("info", _info, _add_url),
        ("verify", _verify, _add_url),
        ("finish", _finish, _add_url),
        ("import", _import, _add_import_options),
        ("export", _export, _add_export_options),
    ):
        summary = str(action.__doc__).splitlines()[0]
        added = actions.add_parser(name, help=summary, description=action.__doc__)
        added.set_defaults(action=action)
        add_options(added)
    return parser


def _add_url(parser: VerbParser) -> None:
    parser.add_argument("url", help=CACHE_HELP)


def _add_import_options(parser: VerbParser) -> None:
    add = parser.add_argument
    add(
        "source",
        help="folder with rows.npy and tokens.npy, .safetensors file, or folder of SAELens or saev",
    )
    kinds = ("auto", "npy", "safetensors", "sae_lens", "saev")
    add("--from", dest="kind", choices=kinds, default="auto", help="kind of source")
    add("--model", required=True, help="the rows' model: directory, .gguf file or hub name")
    add("--layer", type=int, help="block whose output they are, from 0 (default: the source's)")
    add("--out", required=True, help=CACHE_HELP)
    add("--tokens", metavar="NPY", help="token ids of the rows, if the source has none (saev)")
    add("--context-length", type=int, help="rows per window, if the source has no windows")
    add(
        "--first-position",
        type=int,
        metavar="N",
        help="position of the first row of each window, if tokens do not tell: 0, or 1 if the "
        "first row was left out",
    )
    add("--shuffled", action="store_true", help="rows are in no order, so none has neighbours")
    add("--heldout-share", type=float, default=0.1, help="fraction of the documents to hold out")
    dtypes = ("bfloat16", "float32")
    add("--dtype", choices=dtypes, default="bfloat16", help="type of the stored rows")
    add("--chunk-rows", type=int, default=2048, help="rows per chunk")
    add("--shard-rows", type=int, help="rows per file (default: as many as 512 MB hold)")
    add("--overwrite", action="store_true", help="replace an existing cache")


def _add_export_options(parser: VerbParser) -> None:
    _add_url(parser)
    add = parser.add_argument
    add("--layer", type=int, help="layer to write (default: the only one)")
    add_split(parser, "split to write", "train")
    add("--out", required=True, help="directory to write")
    add("--overwrite", action="store_true", help="replace existing files")
