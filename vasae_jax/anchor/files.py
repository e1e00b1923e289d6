"""Layer anchors kept beside the cache they are of.

``CACHE/anchors/layer_NN-.../anchors.json`` says what they are of, and names each array with its
digest. It is written last. An array's name has its digest in it, so processes that make the same
anchors at once never write over one another: what ``anchors.json`` names is as one of them left it.
"""

import dataclasses
from typing import Any

import numpy as np

from vasae_jax import __version__
from vasae_jax.anchor.layer_rows import Origin
from vasae_jax.anchor.token_means import LayerAnchors
from vasae_jax.cache import Cache, RowArray
from vasae_jax.cache.manifest import ANCHORS, checksum, decode, encode
from vasae_jax.cache.store import Store, array_metadata, write_all
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_array

FORMAT = "vasae-layer-anchors"
VERSION = 1
SEAL = "anchors.json"
ANEW = "(vasae anchors --overwrite makes them anew)"
NUMBERS = ("here_explained", "next_explained")


def write_anchors(cache: Cache, anchors: LayerAnchors) -> None:
    """Store anchors of ``cache``, durable on return; raises UserError where that is impossible."""
    store, folder = Store(cache.url), anchors.of.folder
    listed = {}
    for name, array in anchors.arrays().items():
        digest = sha256_array(array)
        key = f"{folder}/{name}-{digest[:16]}"
        stored = store.shared_array(key, _metadata(cache, array.dtype.name, array.shape))
        with store.errors(f"cannot write {store.name(key)}", "a writable place with free space"):
            write_all([(stored, 0, array)])
        listed[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": digest}
    store.write(f"{folder}/{SEAL}", _seal(anchors, listed))


def read_anchors(cache: Cache, of: Origin) -> LayerAnchors | None:
    """The anchors that are kept, every byte checked; None where there are none.

    Raises:
        UserError: they are damaged, or of something else.
    """
    store = Store(cache.url)
    name = store.name(f"{of.folder}/{SEAL}")
    data = store.read(f"{of.folder}/{SEAL}")
    if data is None:
        return None
    seal = decode(data, name)
    _check_seal(seal, name, of)
    fields: dict[str, Any] = {
        key: _read_array(cache, store, f"{of.folder}/{key}", **listed)
        for key, listed in seal["arrays"].items()
    }
    return LayerAnchors(of=of, **fields, **{key: seal[key] for key in NUMBERS})


def remove_anchors(cache: Cache, of: Origin) -> None:
    """Delete what is kept of them, whatever it is."""
    store = Store(cache.url)
    store.delete(f"{of.folder}/{SEAL}")
    for key in store.keys(of.folder):
        store.delete(key)


def problems(cache: Cache) -> list[str]:
    """One sentence for each of the cache's anchors that is damaged or of something else."""
    store, found = Store(cache.url), []
    for key in store.keys(ANCHORS):
        if not key.endswith(f"/{SEAL}"):
            continue
        try:
            _read_sealed(cache, store, key)
        except UserError as error:
            found.append(str(error))
    return found


def _read_sealed(cache: Cache, store: Store, key: str) -> None:
    """Read anchors by the place of their seal alone."""
    stated = decode(store.read(key) or b"", store.name(key)).get("of")
    try:
        of = dataclasses.replace(Origin(**stated), cache=cache.digest)  # type: ignore[arg-type]
        folder = of.folder
    except (TypeError, ValueError) as error:
        raise UserError(f"{store.name(key)} does not say what it is of; expected {SEAL}") from error
    if key != f"{folder}/{SEAL}":
        raise UserError(f"{store.name(key)} is of {folder}; expected it there {ANEW}")
    read_anchors(cache, of)


def _seal(anchors: LayerAnchors, listed: dict[str, Any]) -> bytes:
    value = {
        "format": FORMAT,
        "version": VERSION,
        "of": dataclasses.asdict(anchors.of),
        "rows": anchors.rows,
        "next_rows": anchors.next_rows,
        **{key: getattr(anchors, key) for key in NUMBERS},
        "arrays": listed,
        "created_by": f"vasae_jax {__version__}",
    }
    return encode(value | {"checksum": checksum(value)})


def _check_seal(seal: dict[str, Any], name: str, of: Origin) -> None:
    for key, expected in (("format", FORMAT), ("version", VERSION)):
        if seal.get(key) != expected:
            raise UserError(f"{name} has {key} {seal.get(key)!r}; expected {expected!r} {ANEW}")
    if seal.get("checksum") != (found := checksum(seal)):
        raise UserError(f"{name} has content of SHA-256 {found}; expected what it states {ANEW}")
    for key, expected in dataclasses.asdict(of).items():
        if seal["of"].get(key) != expected:
            raise UserError(f"{name} is of {key} {seal['of'].get(key)}; expected {expected} {ANEW}")


def _read_array(
    cache: Cache, store: Store, key: str, dtype: str, shape: list[int], sha256: str
) -> np.ndarray:
    key = f"{key}-{sha256[:16]}"
    metadata = _metadata(cache, dtype, tuple(shape))
    array = RowArray(store, key, metadata, cache.manifest.chunk_rows).read(0, shape[0])
    if (found := sha256_array(array)) != sha256:
        raise UserError(
            f"{store.name(key)} has content of SHA-256 {found}; expected {sha256} {ANEW}"
        )
    return array


def _metadata(cache: Cache, dtype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    rows, width = (*shape, 0)[:2]
    return array_metadata(dtype, rows, width, cache.manifest.chunk_rows, cache.manifest.shard_rows)
