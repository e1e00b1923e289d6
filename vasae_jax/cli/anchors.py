"""``vasae anchors``."""

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vasae_jax.config import DataConfig

if TYPE_CHECKING:
    from vasae_jax.anchor.token_means import LayerAnchors


def run(arguments: Sequence[str]) -> None:
    """Make the layer anchors of a cache, and say what they are like."""
    given = _parser().parse_args(arguments)

    from vasae_jax.anchor.files import read_anchors, remove_anchors, write_anchors
    from vasae_jax.anchor.layer_rows import origin_of
    from vasae_jax.anchor.token_means import make_anchors
    from vasae_jax.cache import Cache
    from vasae_jax.extract.model import parse_layers
    from vasae_jax.sites import as_sites
    from vasae_jax.utils.progress import duration

    cache = Cache.open(given.cache)
    layers = parse_layers(given.layers)
    sites = cache.manifest.sites if layers is None else as_sites(layers)
    for site in sites:
        cache.norms(site, "train")  # a site that is not there is refused before work begins
    for site in sites:
        of = origin_of(cache, site, given.skip_positions, given.max_norm)
        began = time.monotonic()
        found = None if given.overwrite else read_anchors(cache, of)
        state = "kept before"
        if found is None:
            found = make_anchors(cache, of)
            if given.overwrite:
                remove_anchors(cache, of)
            write_anchors(cache, found)
            state = f"made in {duration(time.monotonic() - began)}"
        print(f"{site}: {_told(found)}, {state}", flush=True)


def _told(found: "LayerAnchors") -> str:
    size = sum(array.nbytes for array in found.arrays().values())
    at, before = found.at, found.before
    return (
        f"{found.rows:,} rows; seen {(at.count > 0).sum():,} tokens at rows and "
        f"{(before.count > 0).sum():,} after them, of {len(at.rows):,}; explained by "
        f"embeddings: at {at.explained:.3f}, before {before.explained:.3f}; "
        f"{size / 1e6:,.1f} MB"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vasae anchors",
        description="Read off a cache where each layer itself puts each token: the mean row at "
        "the token, and the mean row before it. They are kept beside the cache. docs/anchors.md "
        "has the formula.",
    )
    add, data = parser.add_argument, DataConfig()
    add("cache", help="an activation cache: a directory or a gs:// or s3:// URL")
    add("--layers", default="all", help="layers, as in 3,9, or all (default: all of the cache)")
    add(
        "--skip-positions",
        type=int,
        default=data.skip_positions,
        metavar="N",
        help="rows at the first N positions of a window do not count (default: %(default)s)",
    )
    add(
        "--max-norm",
        type=float,
        default=data.max_norm,
        metavar="X",
        help="nor rows longer than X times the median norm; 0 keeps all (default: %(default)s)",
    )
    add("--overwrite", action="store_true", help="make them anew, and replace what is kept")
    return parser
