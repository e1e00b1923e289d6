"""``vasae cache``: ``info``, ``verify``, ``finish``, ``import`` and ``export``."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vasae_jax.cli.options import add_split
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError

if TYPE_CHECKING:
    from vasae_jax.extract.model import VocabularySource


def run(arguments: Sequence[str]) -> None:
    """Run the action that the first argument names."""
    actions = {"import": _import, "export": _export}
    if arguments and arguments[0] in actions:
        actions[arguments[0]](arguments[1:])
        return
    args = _parser().parse_args(arguments)
    {"info": _info, "verify": _verify, "finish": _finish}[args.action](args.url)


def _info(url: str) -> None:
    from vasae_jax import cache

    print(cache.info(url))


def _finish(url: str) -> None:
    from vasae_jax import cache

    rows = sum(split.rows for split in cache.finish(url).splits.values())
    print(f"{url}: complete, {rows:,} rows")


def _verify(url: str) -> None:
    from vasae_jax import cache
    from vasae_jax.anchor.layer_anchors import problems as anchor_problems

    problems = cache.verify(url) + anchor_problems(cache.Cache.open(url))
    if problems:
        print(*problems, sep="\n")
        raise UserError(f"{url} has {len(problems)} problem(s); expected none")
    print(f"{url}: every array, count and digest is correct")


def _import(arguments: Sequence[str]) -> None:
    args = _import_parser().parse_args(arguments)
    if not 0 < args.heldout_share < 1:
        raise UserError(f"--heldout-share is {args.heldout_share}; expected over 0 and below 1")

    from vasae_jax.extract.import_rows import store_rows
    from vasae_jax.extract.pipeline import Settings
    from vasae_jax.extract.row_files import Beside, open_rows

    rows = open_rows(args.source, args.kind, Beside(args.context_length, args.layer, args.tokens))
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
        rows, _load_embeddings(args.model), args.out, site, settings, overwrite=args.overwrite
    )
    counts = ", ".join(f"{split} {info.rows:,} rows" for split, info in manifest.splits.items())
    print(f"{args.out}: {site}; {counts}")


def _load_embeddings(source: str) -> "VocabularySource":
    """The model's embeddings and unembedding, read with NumPy or, if that fails, PyTorch."""
    from vasae_jax.lm.load import load_embeddings
    from vasae_jax.lm.spec import UnknownArchitecture

    try:
        return load_embeddings(source)
    except UnknownArchitecture:
        from vasae_jax.extract.torch import TorchLM, best_device

        return TorchLM(source, best_device(), "float32")


def _export(arguments: Sequence[str]) -> None:
    args = _export_parser().parse_args(arguments)

    from vasae_jax.cache import Cache
    from vasae_jax.extract.import_rows import export_rows

    cache = Cache.open(args.url)
    sites = cache.manifest.sites
    if args.layer is None and len(sites) > 1:
        raise UserError(f"{args.url} has {', '.join(map(str, sites))}; expected --layer")
    site = sites[0] if args.layer is None else args.layer
    print(*export_rows(cache, site, args.split, Path(args.out), args.overwrite), sep="\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae cache",
        description="Show, verify or finish an activation cache. See also vasae cache import "
        "--help (make a cache of rows from other programs) and vasae cache export --help (write "
        "rows as NumPy files).",
    )
    parser.add_argument(
        "action",
        choices=("info", "verify", "finish", "import", "export"),
        help="info: print what it contains; verify: read and check every byte; finish: join the "
        "parts of an extraction with --shard",
    )
    parser.add_argument("url", help="the cache: a directory or a gs:// or s3:// URL")
    return parser


def _import_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae cache import",
        description="Make a cache of rows that another program extracted. Of the model only the "
        "embeddings, the final norm and the token strings are read. docs/cache.md describes the "
        "sources.",
    )
    add = parser.add_argument
    add(
        "source",
        help="folder with rows.npy and tokens.npy, .safetensors file, or folder of SAELens or saev",
    )
    kinds = ("auto", "npy", "safetensors", "sae_lens", "saev")
    add("--from", dest="kind", choices=kinds, default="auto", help="kind of source")
    add("--model", required=True, help="the rows' model: directory, .gguf file or hub name")
    add("--layer", type=int, help="block whose output they are, from 0 (default: the source's)")
    add("--out", required=True, help="the cache: a directory or a gs:// or s3:// URL")
    add("--tokens", metavar="NPY", help="token ids of the rows, if the source has none (saev)")
    add("--context-length", type=int, help="rows per window, if the source has no windows")
    add(
        "--heldout-share",
        type=float,
        default=0.1,
        help="fraction of the documents to hold out (default: %(default)s)",
    )
    add(
        "--dtype",
        choices=("bfloat16", "float32"),
        default="bfloat16",
        help="type of the stored rows (default: %(default)s)",
    )
    add("--chunk-rows", type=int, default=2048, help="rows per chunk (default: %(default)s)")
    add("--shard-rows", type=int, help="rows per file (default: as many as 512 MB hold)")
    add("--overwrite", action="store_true", help="replace an existing cache")
    return parser


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae cache export",
        description="Write the rows of a layer as rows.npy (float32), with tokens.npy, "
        "positions.npy and docs.npy.",
    )
    add = parser.add_argument
    add("url", help="the cache: a directory or a gs:// or s3:// URL")
    add("--layer", type=int, help="layer to write (default: the only one)")
    add_split(parser, "split to write", "train")
    add("--out", required=True, help="directory to write")
    add("--overwrite", action="store_true", help="replace existing files")
    return parser
