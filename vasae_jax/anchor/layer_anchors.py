"""Layer anchors: stored beside the cache on first use, read from there later, with their tokens.

``CACHE/anchors/layers.N.resid_post-.../anchors.json`` states their origin and lists each array
with its digest. It is written last. An array's name has its digest in it, so processes that make
the same anchors at once never overwrite one another's arrays.
"""

import dataclasses
import itertools
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from vasae_jax import __version__
from vasae_jax.anchor.layer_rows import Origin, origin_of
from vasae_jax.anchor.token_means import ARRAYS, LayerAnchors, TokenMeans, make_anchors
from vasae_jax.anchor.whitening import FEW, KINDS, means_of
from vasae_jax.cache import Cache, RowArray
from vasae_jax.cache.manifest import ANCHORS, checksum, decode, encode
from vasae_jax.cache.store import Store, array_metadata, write_all
from vasae_jax.dictionary.claims import RELATIONS
from vasae_jax.sites import SiteLike
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_array
from vasae_jax.utils.streams import note
from vasae_jax.utils.typed import fits

FORMAT = "vasae-layer-anchors"
VERSION = 2
MANIFEST = "anchors.json"
_STATED = {"of": dict, "arrays": dict, "at_explained": float, "before_explained": float}
"""What a manifest states of its anchors, with types."""
ANEW = "(vasae anchors --overwrite makes them anew)"


def layer_anchors(
    cache: Cache, site: SiteLike, skip_positions: int, max_norm: float
) -> LayerAnchors:
    """The anchors stored beside the cache; computed and stored first if there are none.

    Where the cache cannot be written they are made and used all the same, and one line says so.

    Raises:
        UserError: the cache lacks the site, every row is masked, or the stored anchors are damaged.
    """
    origin = origin_of(cache, site, skip_positions, max_norm)
    if (kept := read_anchors(cache, origin)) is not None:
        return kept
    made = make_anchors(cache, origin)
    try:
        write_anchors(cache, made)
    except UserError as error:
        note(f"the anchors of {origin.site} are used but not kept: {error}")
    return made


def write_anchors(cache: Cache, anchors: LayerAnchors) -> None:
    """Store anchors of ``cache``, durable on return; raises UserError where that is impossible."""
    store, folder = Store(cache.url), anchors.origin.folder
    listed = {}
    for name, array in anchors.arrays().items():
        digest = sha256_array(array)
        key = f"{folder}/{name}-{digest[:16]}"
        metadata = _metadata(cache, array.dtype.name, array.shape)
        stored = store.create_array(key, metadata, shared=True)
        with store.errors(f"cannot write {store.name(key)}", "a writable place with free space"):
            write_all([(stored, 0, array)])
        listed[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": digest}
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "of": dataclasses.asdict(anchors.origin),
        "rows": anchors.rows,
        "before_rows": anchors.before_rows,
        "at_explained": anchors.at.explained,
        "before_explained": anchors.before.explained,
        "arrays": listed,
        "created_by": f"vasae_jax {__version__}",
    }
    store.write(f"{folder}/{MANIFEST}", encode(manifest | {"checksum": checksum(manifest)}))


def read_anchors(cache: Cache, origin: Origin) -> LayerAnchors | None:
    """The anchors that are kept, every byte checked; None where there are none.

    Raises:
        UserError: they are damaged, of something else, or of another version.
    """
    store, file = Store(cache.url), f"{origin.folder}/{MANIFEST}"
    data = store.read(file)
    if data is None:
        return None
    manifest = decode(data, store.name(file))
    _check_manifest(manifest, store.name(file), origin)
    try:
        arrays = _read_arrays(cache, store, origin.folder, manifest["arrays"])
        means = {
            relation: TokenMeans(
                **{part: arrays[f"{relation}{suffix}"] for part, suffix in ARRAYS.items()},
                explained=manifest[f"{relation}_explained"],
            )
            for relation in RELATIONS
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{store.name(file)} cannot be understood ({error}) {ANEW}") from error
    return LayerAnchors(origin=origin, **means)


def remove_anchors(cache: Cache, origin: Origin) -> None:
    """Delete what is kept of them, whatever it is."""
    store = Store(cache.url)
    store.delete(f"{origin.folder}/{MANIFEST}")
    for key in store.keys(origin.folder):
        store.delete(key)


def problems(cache: Cache) -> list[str]:
    """One sentence for each of the cache's anchors that is damaged or of something else."""
    store, sentences = Store(cache.url), []
    for key in store.keys(ANCHORS):
        if not key.endswith(f"/{MANIFEST}"):
            continue
        try:
            _check_kept(cache, store, key)
        except UserError as error:
            sentences.append(str(error))
    return sentences


def _check_kept(cache: Cache, store: Store, key: str) -> None:
    """Read the anchors whose manifest is at ``key``."""
    stated = decode(store.read(key) or b"", store.name(key)).get("of")
    if isinstance(stated, dict) and "layer" in stated:
        return  # of version 1, in a folder that is not looked up any more
    try:
        origin = dataclasses.replace(Origin(**stated), cache=cache.digest)  # type: ignore[arg-type]
        folder = origin.folder
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{store.name(key)} states no origin; expected one in {MANIFEST}"
        ) from error
    if key != f"{folder}/{MANIFEST}":
        raise UserError(f"{store.name(key)} is of {folder}; expected it there {ANEW}")
    read_anchors(cache, origin)


def _check_manifest(manifest: dict[str, Any], name: str, origin: Origin) -> None:
    for key, expected in (("format", FORMAT), ("version", VERSION)):
        if manifest.get(key) != expected:
            raise UserError(f"{name} has {key} {manifest.get(key)!r}; expected {expected!r} {ANEW}")
    for key, kind in _STATED.items():
        if not fits(manifest.get(key), kind):
            raise UserError(f"{name} has no {key} as vasae anchors writes it {ANEW}")
    if manifest.get("checksum") != (actual := checksum(manifest)):
        raise UserError(f"{name} has content of SHA-256 {actual}; expected what it states {ANEW}")
    for key, expected in dataclasses.asdict(origin).items():
        if (stated := manifest["of"].get(key)) != expected:
            raise UserError(f"{name} is of {key} {stated}; expected {expected} {ANEW}")


def _read_arrays(
    cache: Cache, store: Store, folder: str, listed: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The arrays that a manifest lists; UserError unless they are those of a cache's anchors."""
    vocab, width = cache.manifest.vocab_size, cache.manifest.d_model
    shapes = {"rows": [vocab, width], "count": [vocab], "mean": [width], "within": [width, width]}
    arrays = {}
    for relation, (part, shape) in itertools.product(RELATIONS, shapes.items()):
        name, dtype = f"{relation}{ARRAYS[part]}", "int64" if part == "count" else "float32"
        stated, expected = listed.get(name), {"dtype": dtype, "shape": shape}
        digest = stated.get("sha256") if isinstance(stated, dict) else None
        if not isinstance(digest, str) or stated != expected | {"sha256": digest}:
            raise UserError(f"{store.name(folder)} lists {name} {stated}; expected {expected}")
        arrays[name] = _read_array(cache, store, f"{folder}/{name}", dtype, tuple(shape), digest)
    return arrays


def _read_array(
    cache: Cache, store: Store, key: str, dtype: str, shape: tuple[int, ...], sha256: str
) -> np.ndarray:
    if not re.fullmatch("[0-9a-f]{64}", sha256):  # of which a part is in the name of a folder
        raise UserError(f"{store.name(key)} has the digest {sha256!r:.80}; expected a SHA-256")
    key = f"{key}-{sha256[:16]}"
    metadata = _metadata(cache, dtype, shape)
    array = RowArray(store, key, metadata, cache.manifest.chunk_rows).read(0, shape[0])
    if (actual := sha256_array(array)) != sha256:
        raise UserError(
            f"{store.name(key)} has content of SHA-256 {actual}; expected {sha256} {ANEW}"
        )
    return array


def _metadata(cache: Cache, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    rows, width = (*shape, 0)[:2]
    return array_metadata(dtype, rows, width, cache.manifest.chunk_rows, cache.manifest.shard_rows)


class AnchorTokens(NamedTuple):
    """The tokens of A anchors, in their order."""

    token: jax.Array | np.ndarray
    """int32 [A]"""
    before: jax.Array | np.ndarray
    """bool [A], whether the anchor is of rows before the token, not at it"""


def vocabulary_tokens(vocab_size: int) -> AnchorTokens:
    """The tokens of anchors such as the embeddings: one for each token, in their order."""
    return AnchorTokens(np.arange(vocab_size, dtype=np.int32), np.zeros(vocab_size, bool))


def anchor_tokens(anchors: LayerAnchors, kind: str, *, detectors: bool) -> AnchorTokens:
    """The tokens of the rows that ``anchor_rows`` gives, or ``detector_rows``."""
    least, token, before = FEW if detectors else 0, [], []
    for relation, means in zip(KINDS[kind], means_of(anchors, kind), strict=True):
        ids = np.flatnonzero(means.count >= least)
        token.append(ids.astype(np.int32))
        before.append(np.full(len(ids), relation == "before"))
    return AnchorTokens(np.concatenate(token), np.concatenate(before))
