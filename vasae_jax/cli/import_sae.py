"""``vasae import``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vasae_jax.config import DataConfig
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import refuse_existing

if TYPE_CHECKING:
    from vasae_jax.cache import Cache
    from vasae_jax.interop.record import ForeignSAE


def run(arguments: Sequence[str]) -> None:
    """Take in an SAE of another library, as a folder that serves like a run's."""
    given = _parser().parse_args(arguments)
    out = Path(given.out)
    refuse_existing(out, overwrite=given.overwrite)

    from vasae_jax.cache import Cache
    from vasae_jax.interop.read import read_foreign
    from vasae_jax.interop.record import Imported, write_import

    cache = Cache.open(given.cache)
    sae = read_foreign(given.source, given.library, given.folder)
    site = _site(given, sae, cache)
    _check_width(sae, cache)
    where = f"{given.source}/{given.folder}" if given.folder else given.source
    place = cache.url if "://" in cache.url else str(Path(cache.url).resolve())
    mask = (given.skip_positions, given.max_norm)
    origin = Imported(where, place, cache.digest, site.layer, site.kind, *mask)
    write_import(out, sae, origin, given.overwrite)
    print(_told(sae, site))
    print(f"written to {out}")


def _site(given: argparse.Namespace, sae: "ForeignSAE", cache: "Cache") -> Site:
    """The site of --layer or else of the SAE's files; the cache must have it."""
    site = sae.site if given.layer is None else Site(given.layer)
    if site is None:
        raise UserError(f"{given.source} does not say which layer it reads; expected --layer")
    if sae.site is not None and site != sae.site:
        _note(f"{given.source} says that it reads {sae.site}; --layer {given.layer} is taken")
    cache.acts(site, "train")
    own = cache.manifest.model.id
    if sae.model and _short(sae.model) not in _short(own) and _short(own) not in _short(sae.model):
        _note(f"{given.source} says that its model is {sae.model}; the cache is of {own}")
    return site


def _check_width(sae: "ForeignSAE", cache: "Cache") -> None:
    width = sae.W_dec.shape[1]
    if width != cache.manifest.d_model:
        raise UserError(
            f"the SAE has rows of width {width} and cache {cache.url} of "
            f"{cache.manifest.d_model}; expected a cache of its model"
        )


def _short(model: str) -> str:
    return model.rstrip("/").split("/")[-1].lower()


def _note(sentence: str) -> None:
    print(f"vasae: note: {sentence}", file=sys.stderr)


def _told(sae: "ForeignSAE", site: Site) -> str:
    d_sae, d_in = sae.W_dec.shape
    k = f", k {sae.k}" if sae.architecture == "topk" else ""
    words = f"{sae.architecture}{k}: {d_sae} features of width {d_in} at {site}"
    return f"{sae.library}, {words}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae import",
        description="Take in an SAE that another library trained, its activation function kept "
        "as it is. vasae name, eval, report and export then work on the folder as on a run's, over "
        "a cache of its model and layer. docs/import.md says what is read and what is refused.",
    )
    add, data = parser.add_argument, DataConfig()
    add("source", help="the SAE's folder, or a repository on the Hugging Face hub")
    add(
        "--from",
        dest="library",
        choices=("auto", "sae_lens", "sparsify", "dictionary_learning", "gemma_scope"),
        default="auto",
        help="whose files they are (default: auto, by their names)",
    )
    add("--folder", default="", help="the SAE's folder within the source")
    add("--cache", required=True, help="an activation cache of its model and layer")
    add("--layer", type=int, help="the block whose output it reads (default: as its files say)")
    add("--out", required=True, help="directory to write")
    add(
        "--skip-positions",
        type=int,
        default=data.skip_positions,
        help="rows at the first so many positions are masked (default: %(default)s)",
    )
    add(
        "--max-norm",
        type=float,
        default=data.max_norm,
        help="rows longer than so many median norms are masked, 0: none (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="replace an import that is there")
    return parser
