"""Anchors of a layer: those kept beside the cache, or made on first use."""

import sys
from collections.abc import Iterator

from vasae_jax.anchor.layer.estimate import LayerAnchors, estimate
from vasae_jax.anchor.layer.files import read_anchors, write_anchors
from vasae_jax.anchor.layer.moments import SUMS_BYTES, Relations, measure, token_blocks
from vasae_jax.anchor.layer.origin import Origin, origin_of
from vasae_jax.anchor.layer.rows import LayerRows
from vasae_jax.cache import Cache
from vasae_jax.system.errors import UserError
from vasae_jax.system.progress import Progress


def layer_anchors(cache: Cache, layer: int, skip_positions: int, max_norm: float) -> LayerAnchors:
    """The anchors kept beside the cache, which are made if there are none.

    Where the cache cannot be written they are made and used all the same, and one line says so.

    Raises:
        UserError: the cache lacks the layer, no row is kept, or what is kept is damaged.
    """
    of = origin_of(cache, layer, skip_positions, max_norm)
    found = read_anchors(cache, of)
    if found is not None:
        return found
    found = make_anchors(cache, of)
    try:
        write_anchors(cache, found)
    except UserError as error:
        print(f"the anchors of layer {layer} are used but not kept: {error}", file=sys.stderr)
    return found


def make_anchors(cache: Cache, of: Origin, limit: int = SUMS_BYTES) -> LayerAnchors:
    """Anchors from the rows themselves; nothing is written.

    The rows are read once for each block of tokens whose sums fill ``limit`` bytes: once up to
    V d = 2^28 (at d = 576 a vocabulary of 466,033). For memory besides the sums see
    :func:`vasae_jax.anchor.layer.measure` and :func:`vasae_jax.anchor.layer.estimate`.

    Raises:
        UserError: the cache lacks the layer, no row is kept, or a chunk is damaged.
    """
    rows = LayerRows(cache, of.layer, of.skip_positions, of.max_norm)
    return estimate(_measured(rows, of.layer, limit), cache.embedding(), of)


def _measured(rows: LayerRows, layer: int, limit: int) -> Iterator[Relations]:
    blocks = token_blocks(rows.vocab_size, rows.width, limit)
    done = 0
    with Progress(rows.count * len(blocks), unit=f"rows of layer {layer}") as progress:

        def seen(read: int) -> None:
            nonlocal done
            done += read
            progress.update(done)

        for block in blocks:
            yield measure(rows, block, seen=seen)
