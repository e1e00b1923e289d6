"""Read an SAE that another library trained, with its activation function.

vasae name, eval, report and export then work on the written folder as on a run, with a cache of the
SAE's model and layer. docs/import.md has what can be read.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vasae_jax.cli.options import VerbParser, add_mask
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import refuse_existing
from vasae_jax.utils.shown import shown
from vasae_jax.utils.streams import note

if TYPE_CHECKING:
    from vasae_jax.cache import Cache
    from vasae_jax.interop.record import ForeignSAE


def run(arguments: Sequence[str]) -> None:
    """Read an SAE of another library and write it as a folder that can be used like a run."""
    args = _parser().parse_args(arguments)
    out = Path(args.out)
    refuse_existing(out, overwrite=args.overwrite)

    from vasae_jax.cache import Cache
    from vasae_jax.cache.store import absolute_url
    from vasae_jax.interop.libraries import read_foreign, source_place
    from vasae_jax.interop.record import Imported, write_import

    cache = Cache.open(args.cache)
    sae = read_foreign(args.source, args.library, args.folder)
    site = _site(args, sae, cache)
    width = sae.W_dec.shape[1]
    if width != cache.manifest.d_model:
        raise UserError(
            f"the SAE has rows of width {width} and cache {cache.url} of "
            f"{cache.manifest.d_model}; expected a cache of its model"
        )
    source = source_place(args.source, args.folder)
    mask = (args.skip_positions, args.max_norm)
    origin = Imported(source, absolute_url(cache.url), cache.digest, site.layer, site.kind, *mask)
    write_import(out, sae, origin, args.overwrite)
    for sentence in sae.notes:
        _warn(f"{args.source}: {sentence}")
    k = f", k {sae.k}" if sae.architecture == "topk" else ""
    features = f"{sae.W_dec.shape[0]} features of width {width}"
    print(f"{sae.library}, {sae.architecture}{k}: {features} at {site}")
    print(f"written to {out}")


def _site(args: argparse.Namespace, sae: "ForeignSAE", cache: "Cache") -> Site:
    """The site of --layer or of the SAE's files; raises UserError if the cache lacks it."""
    site = sae.site if args.layer is None else Site(args.layer)
    if site is None:
        raise UserError(f"{args.source} does not say which layer it reads; expected --layer")
    if sae.site is not None and site != sae.site:
        _warn(f"{args.source} says that it reads {sae.site}; --layer {args.layer} is used")
    cache.acts(site, "train")
    model = cache.manifest.model.id
    short, other = (name.rstrip("/").split("/")[-1].lower() for name in (sae.model or "", model))
    if short not in other and other not in short:
        _warn(f"{args.source} says that its model is {sae.model}; the cache is of {model}")
    return site


def _warn(sentence: str) -> None:
    note(f"vasae: note: {shown(sentence)}")


def _parser() -> VerbParser:
    parser = VerbParser(prog="vasae import", description=__doc__)
    add = parser.add_argument
    add("source", help="the SAE's folder, or a repository on the Hugging Face hub")
    libraries = ("auto", "sae_lens", "sparsify", "dictionary_learning", "gemma_scope")
    wrote = "library that wrote the files; auto: by their names"
    add("--from", dest="library", choices=libraries, default="auto", help=wrote)
    add("--folder", default="", help="the SAE's folder within the source")
    add("--cache", required=True, help="an activation cache of the SAE's model and layer")
    add("--layer", type=int, help="block whose output it reads, from 0 (default: as its files say)")
    add("--out", required=True, help="directory to write")
    add_mask(parser)
    add("--overwrite", action="store_true", help="replace an existing import")
    return parser
