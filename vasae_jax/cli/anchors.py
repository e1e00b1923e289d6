"""Compute the layer anchors of a cache.

They are, for each token, the layer's mean row at the token and its mean row just before the token.
They are stored beside the cache. docs/anchors.md has the formula.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vasae_jax.cli.options import VerbParser, add_mask

if TYPE_CHECKING:
    from vasae_jax.anchor.token_means import LayerAnchors


def run(arguments: Sequence[str]) -> None:
    """Compute and store the layer anchors of a cache, and print a summary of each layer's."""
    args = _parser().parse_args(arguments)

    from vasae_jax.anchor.layer_anchors import read_anchors, remove_anchors, write_anchors
    from vasae_jax.anchor.layer_rows import origin_of
    from vasae_jax.anchor.token_means import make_anchors
    from vasae_jax.cache import Cache
    from vasae_jax.extract.model import parse_layers
    from vasae_jax.sites import as_sites
    from vasae_jax.utils.progress import duration

    cache = Cache.open(args.cache)
    layers = parse_layers(args.layers)
    sites = cache.manifest.sites if layers is None else as_sites(layers)
    for site in sites:
        cache.norms(site, "train")  # raises for a missing site before the work begins
    for site in sites:
        origin = origin_of(cache, site, args.skip_positions, args.max_norm)
        began = time.monotonic()
        anchors = None if args.overwrite else read_anchors(cache, origin)
        note = "already stored"
        if anchors is None:
            anchors = make_anchors(cache, origin)
            if args.overwrite:
                remove_anchors(cache, origin)
            write_anchors(cache, anchors)
            note = f"computed in {duration(time.monotonic() - began)}"
        print(f"{site}: {_summary(anchors)}, {note}", flush=True)


def _summary(anchors: "LayerAnchors") -> str:
    at, before = anchors.at, anchors.before
    size = sum(array.nbytes for array in anchors.arrays().values())
    return (
        f"{anchors.rows:,} rows; seen {(at.count > 0).sum():,} tokens at rows and "
        f"{(before.count > 0).sum():,} after them, of {len(at.rows):,}; explained by "
        f"embeddings: at {at.explained:.3f}, before {before.explained:.3f}; "
        f"{size / 1e6:,.1f} MB"
    )


def _parser() -> VerbParser:
    parser = VerbParser(prog="vasae anchors", description=__doc__)
    add = parser.add_argument
    add("cache", help="an activation cache: a directory or a gs:// or s3:// URL")
    add("--layers", default="all", help="layers such as 3,9, or all")
    add_mask(parser)
    add("--overwrite", action="store_true", help="compute and replace anchors that are stored")
    return parser
