"""``vasae cache info``, ``verify`` and ``finish``; ``import`` and ``export`` are next door."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError

if TYPE_CHECKING:
    from vasae_jax.extract.model import VocabularySource


# ``vasae cache import`` and ``vasae cache export``.


def run_import(arguments: Sequence[str]) -> None:
    """Make a cache of rows that another program extracted."""
    given = _import_parser().parse_args(arguments)

    from vasae_jax.extract.import_rows import store_rows
    from vasae_jax.extract.pipeline import Settings
    from vasae_jax.extract.row_files import Beside, open_rows

    beside = Beside(given.context_length, given.layer, given.tokens)
    rows = open_rows(given.source, given.kind, beside)
    site = rows.site if given.layer is None else Site(given.layer)
    if site is None:
        raise UserError(f"{given.source} does not say its rows' layer; expected --layer")
    settings = Settings(
        heldout_share=given.heldout_share,
        dtype=given.dtype,
        shard_rows=given.shard_rows,
        chunk_rows=given.chunk_rows,
    )
    if not 0 < settings.heldout_share < 1:
        raise UserError(f"--heldout-share is {settings.heldout_share}; expected over 0 and below 1")
    manifest = store_rows(
        rows, _ends(given.model), given.out, site, settings, overwrite=given.overwrite
    )
    counts = ", ".join(f"{split} {info.rows:,} rows" for split, info in manifest.splits.items())
    print(f"{given.out}: {site}; {counts}")


def run_export(arguments: Sequence[str]) -> None:
    """Write a layer's rows of one split as NumPy files."""
    given = _export_parser().parse_args(arguments)

    from vasae_jax.cache import Cache
    from vasae_jax.extract.import_rows import export_rows

    cache = Cache.open(given.url)
    sites = cache.manifest.sites
    if given.layer is None and len(sites) > 1:
        names = ", ".join(map(str, sites))
        raise UserError(f"{given.url} has sites {names}; expected --layer to say which")
    site = sites[0] if given.layer is None else given.layer
    written = export_rows(cache, site, given.split, Path(given.out), given.overwrite)
    print("\n".join(map(str, written)))


def _ends(source: str) -> "VocabularySource":
    """The model's two ends: in NumPy where its architecture is known, or by PyTorch."""
    from vasae_jax.lm.load import load_embeddings
    from vasae_jax.lm.spec import UnknownArchitecture

    try:
        return load_embeddings(source)
    except UnknownArchitecture:
        from vasae_jax.extract.torch import TorchLM, best_device

        return TorchLM(source, best_device(), "float32")


def _import_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae cache import",
        description="Make a cache of rows that another program extracted. The model is asked for "
        "its embeddings, norm and token strings alone. docs/cache.md describes the sources.",
    )
    add = parser.add_argument
    add("source", help="folder of rows.npy and tokens.npy, .safetensors file, SAELens' or saev's")
    kinds = ("auto", "npy", "safetensors", "sae_lens", "saev")
    add("--from", dest="kind", choices=kinds, default="auto")
    add("--model", required=True, help="the rows' model: directory, .gguf file or hub name")
    add("--layer", type=int, help="the block whose output they are (default: as the source says)")
    add("--out", required=True, help="the cache: a directory or a gs:// or s3:// URL")
    add("--tokens", metavar="NPY", help="token ids of the rows, where the source has none (saev)")
    add("--context-length", type=int, help="rows of a window, where they are laid end to end")
    add("--heldout-share", type=float, default=0.1, help="of the documents (default: %(default)s)")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the stored rows")
    add("--chunk-rows", type=int, default=2048, help="rows read and checked as one")
    add("--shard-rows", type=int, help="rows in one file (default: 512 MB)")
    add("--overwrite", action="store_true", help="replace a cache that lies at --out")
    return parser


def _export_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae cache export",
        description="Write a layer's rows as rows.npy (float32), with tokens.npy, positions.npy "
        "and docs.npy.",
    )
    add = parser.add_argument
    add("url", help="the cache: a directory or a gs:// or s3:// URL")
    add("--layer", type=int, help="which layer (default: the only one)")
    add("--split", choices=("train", "heldout"), default="train")
    add("--out", required=True, help="directory to write")
    add("--overwrite", action="store_true", help="replace existing files")
    return parser


def run(arguments: Sequence[str]) -> None:
    """Print what a cache holds, check every byte of it, join its parts; or import and export."""
    if arguments and arguments[0] in ("import", "export"):
        verb = run_import if arguments[0] == "import" else run_export
        verb(arguments[1:])
        return
    parser = argparse.ArgumentParser(
        prog="vasae cache",
        description="Show what an activation cache holds, verify it, or join its parts. vasae "
        "cache import --help: rows from elsewhere; vasae cache export --help: as NumPy files.",
    )
    parser.add_argument(
        "action",
        choices=("info", "verify", "finish", "import", "export"),
        help="info: print what it holds; verify: read and check every byte; finish: join the parts "
        "of an extraction with --shard",
    )
    parser.add_argument("url", help="the cache: a directory or a gs:// or s3:// URL")
    given = parser.parse_args(arguments)

    from vasae_jax import cache

    if given.action == "info":
        print(cache.info(given.url))
        return
    if given.action == "finish":
        rows = sum(split.rows for split in cache.finish(given.url).splits.values())
        print(f"{given.url}: complete, {rows:,} rows")
        return
    from vasae_jax.anchor.files import problems

    found = cache.verify(given.url) + problems(cache.Cache.open(given.url))
    for problem in found:
        print(problem)
    if found:
        raise UserError(f"{given.url} has {len(found)} problem(s); expected none")
    print(f"{given.url}: every array, count and digest is correct")
