"""The named dictionary: an SAE, a name for each feature, and where both come from.

Three files in one directory, described in docs/dictionary.md: the ``.npz`` that was asked
for, ``names.jsonl`` and ``meta.json``. The last holds the digests of the other two.
"""

import contextlib
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vasae_jax import __version__
from vasae_jax.cache import Cache
from vasae_jax.errors import UserError
from vasae_jax.files import atomic_file, refuse_existing, sha256_bytes, sha256_file
from vasae_jax.naming import CLAIM, Names, bucket_names, bucket_of
from vasae_jax.sae import Params
from vasae_jax.vocab import Vocab

FORMAT, VERSION = "vasae-dictionary", 1
NAMES, META = "names.jsonl", "meta.json"


@dataclass(frozen=True)
class Dictionary:
    """An SAE with named features; arrays are as in the ``.npz`` file.

    x_hat = z W_dec + b_dec with z the k largest of relu((x - pre_bias * b_dec) W_enc + b_enc).
    """

    W_enc: np.ndarray
    """float32 [d_in, d_sae]"""
    b_enc: np.ndarray
    """float32 [d_sae]"""
    W_dec: np.ndarray
    """float32 [d_sae, d_in]"""
    b_dec: np.ndarray
    """float32 [d_in]"""
    k: int
    """Features that may fire on one row."""
    pre_bias: float
    """Share of b_dec taken from the input before encoding."""
    token_ids: np.ndarray
    """int32 [d_sae, m], tokens nearest to W_dec[i] among the stated anchors, best first."""
    cosines: np.ndarray
    """float32 [d_sae, m]"""
    raw_token_ids: np.ndarray
    """int32 [d_sae, m], tokens nearest among the raw input embeddings."""
    raw_cosines: np.ndarray
    """float32 [d_sae, m]"""
    fire_rate: np.ndarray
    """float32 [d_sae], share of rows on which the feature fires."""
    tokens: Mapping[int, tuple[str, str]]
    """Raw and display string of every token id in token_ids."""
    meta: Mapping[str, Any]
    """The content of meta.json."""

    @property
    def d_in(self) -> int:
        """Width of a row."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.W_dec.shape[0]


ARRAYS: dict[str, tuple[str, str]] = {
    "W_enc": ("float32", "is"),
    "b_enc": ("float32", "s"),
    "W_dec": ("float32", "si"),
    "b_dec": ("float32", "i"),
    "k": ("int32", ""),
    "pre_bias": ("float32", ""),
    "token_ids": ("int32", "sm"),
    "cosines": ("float32", "sm"),
    "raw_token_ids": ("int32", "sm"),
    "raw_cosines": ("float32", "sm"),
    "fire_rate": ("float32", "s"),
}
"""Arrays of the ``.npz``: dtype, and axes by letter (i: d_in, s: d_sae, m: names a feature)."""


def make_dictionary(
    params: Params | Mapping[str, np.ndarray | jax.Array],
    *,
    k: int,
    pre_bias: float,
    names: Names,
    raw_names: Names,
    vocab: Vocab,
    fire_rate: np.ndarray,
    meta: Mapping[str, Any],
) -> Dictionary:
    """Put an SAE and the names of its features together.

    Args:
        params: W_enc [d_sae, d_in] (feature-major, as in the trainer), b_enc, W_dec, b_dec.
        k: features that may fire on one row.
        pre_bias: share of b_dec taken from the input before encoding.
        names: the nearest of the stated anchors, ids and cosines [d_sae, m].
        raw_names: the nearest of the raw input embeddings, likewise.
        vocab: the V token strings.
        fire_rate: [d_sae], share of rows on which each feature fires.
        meta: see :func:`make_meta`.

    Raises:
        UserError: a name has no string in the vocabulary.
    """
    used = np.unique(names.ids).tolist()
    if used and used[-1] >= len(vocab):
        raise UserError(
            f"token {used[-1]} is a name and the vocabulary has {len(vocab)} strings; "
            "expected a string for every token"
        )
    given: Mapping[str, Any] = dict(params)
    arrays = {name: np.asarray(value, np.float32) for name, value in given.items()}
    return Dictionary(
        W_enc=np.ascontiguousarray(arrays["W_enc"].T),
        b_enc=arrays["b_enc"],
        W_dec=arrays["W_dec"],
        b_dec=arrays["b_dec"],
        k=k,
        pre_bias=pre_bias,
        token_ids=names.ids,
        cosines=names.cosines,
        raw_token_ids=raw_names.ids,
        raw_cosines=raw_names.cosines,
        fire_rate=np.asarray(fire_rate, np.float32),
        tokens={token: (vocab.raw[token], vocab.display(token)) for token in used},
        meta=meta,
    )


def make_meta(
    *,
    anchor: str,
    fire_rate_over: str,
    provenance: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of meta.json, but for the digests.

    Args:
        anchor: what the names refer to, in words (such as "input embeddings").
        fire_rate_over: which rows the fire rates are over, in words.
        provenance: see :func:`provenance`.
        config: the run's settings.
        metrics: an evaluation as JSON, or None if there was none.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "created_by": f"vasae_jax {__version__}",
        "claim": CLAIM,
        "anchor": anchor,
        "fire_rate_over": fire_rate_over,
        "provenance": dict(provenance),
        "config": dict(config),
        "metrics": None if metrics is None else dict(metrics),
    }


def provenance(cache: Cache, layer: int) -> dict[str, Any]:
    """Where a dictionary's rows come from: model, site, layer, text and the cache's digest."""
    manifest = cache.manifest
    return {
        "model": dict(vars(manifest.model)),
        "site": manifest.site,
        "layer": layer,
        "bos": manifest.bos,
        "context_length": manifest.context_length,
        "text": dict(vars(manifest.text)),
        "cache_digest": cache.digest,
    }


def check_outputs(out_npz: str | os.PathLike[str], overwrite: bool) -> tuple[Path, Path, Path]:
    """The paths that :func:`write_dictionary` will write: the ``.npz``, names and metadata.

    Raises:
        UserError: the name does not end in .npz, or one of the files exists (and ``overwrite``
            was not asked for).
    """
    npz = Path(out_npz)
    if npz.suffix != ".npz":
        raise UserError(f"{npz} is not an .npz name; expected something like dictionary.npz")
    paths = (npz, npz.parent / NAMES, npz.parent / META)
    for path in paths:
        refuse_existing(path, overwrite)
    return paths


def write_dictionary(
    out_npz: str | os.PathLike[str], dictionary: Dictionary, overwrite: bool = False
) -> tuple[Path, Path, Path]:
    """Write the three files; none is visible before all of them are whole.

    Returns:
        The paths, as :func:`check_outputs`.

    Raises:
        UserError: what :func:`check_outputs` refuses, arrays that do not fit, a place that
            cannot be written.
    """
    paths = check_outputs(out_npz, overwrite)
    arrays: dict[str, Any] = _arrays(dictionary)
    _check_arrays(arrays, str(paths[0]))
    names = _names_text(dictionary).encode("utf-8", "backslashreplace")
    with contextlib.ExitStack() as stack:
        # Files appear in reverse order: meta.json, which vouches for the others, last.
        meta_file, names_file, npz_file = (
            stack.enter_context(atomic_file(path)) for path in reversed(paths)
        )
        np.savez(npz_file, **arrays)
        npz_file.flush()
        names_file.write(names)
        digests = {"npz": sha256_file(npz_file.name), "names": sha256_bytes(names)}
        meta = {**dictionary.meta, "sha256": digests}
        text = json.dumps(meta, indent=2, ensure_ascii=False, allow_nan=False)
        meta_file.write((text + "\n").encode())
        for file in (meta_file, names_file):
            file.flush()
    return paths


def read_dictionary(npz: str | os.PathLike[str]) -> Dictionary:
    """Read a dictionary from its ``.npz`` and the two files beside it.

    Raises:
        UserError: a file is missing, foreign, of a newer version, damaged, or not the one
            that was written with the others.
    """
    path = Path(npz)
    names, meta_path = path.parent / NAMES, path.parent / META
    for file in (path, names, meta_path):
        if not file.is_file():
            raise UserError(
                f"{file} is not there; expected a dictionary's .npz, {NAMES} and {META} "
                "in one directory"
            )
    meta = _read_meta(meta_path)
    for name, file in (("npz", path), ("names", names)):
        if meta["sha256"].get(name) != sha256_file(file):
            raise UserError(
                f"{file} is not the file that {meta_path} was written with; "
                "expected the three files of one export"
            )
    arrays: dict[str, Any] = _load(path)
    arrays |= {"k": int(arrays["k"]), "pre_bias": float(arrays["pre_bias"])}
    return Dictionary(**arrays, tokens=_tokens(names), meta=meta)


def _arrays(dictionary: Dictionary) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(getattr(dictionary, name), dtype) for name, (dtype, _) in ARRAYS.items()
    }


def _check_arrays(arrays: Mapping[str, np.ndarray], where: str) -> None:
    sizes: dict[str, int] = {}
    for name, (dtype, axes) in ARRAYS.items():
        array = arrays[name]
        shape = array.shape
        fits = array.dtype == dtype and len(shape) == len(axes)
        fits = fits and all(
            sizes.setdefault(axis, n) == n for axis, n in zip(axes, shape, strict=True)
        )
        if not fits:
            raise UserError(
                f"array {name} of {where} is {array.dtype} {shape}; expected {dtype} with axes "
                f"({', '.join(axes)}) of a dictionary with sizes {sizes}"
            )
        if not np.isfinite(array).all():
            raise UserError(f"array {name} of {where} is not finite; expected finite numbers")


def _names_text(dictionary: Dictionary) -> str:
    buckets = [bucket_names()[index] for index in bucket_of(dictionary.cosines[:, 0])]
    lines = []
    columns = (dictionary.token_ids, dictionary.cosines, dictionary.fire_rate)
    for feature, (ids, cosines, rate) in enumerate(
        zip(*(c.tolist() for c in columns), strict=True)
    ):
        names = []
        for token, cosine in zip(ids, cosines, strict=True):
            raw, display = dictionary.tokens[token]
            name = {"token_id": token, "raw": raw, "display": display, "cosine": round(cosine, 6)}
            names.append(name)
        record = {"feature": feature, "names": names, "bucket": buckets[feature]}
        record["fire_rate"] = float(f"{rate:.6g}")
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    text = "".join(lines)
    for character in "\u0085\u2028\u2029":  # ends of a line to readers that split by Unicode
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _tokens(names: Path) -> dict[int, tuple[str, str]]:
    with open(names, encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return {
        name["token_id"]: (name["raw"], name["display"])
        for record in records
        for name in record["names"]
    }


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON; expected the meta.json of a dictionary") from error
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(f'{path} lacks "format": "{FORMAT}"; expected a dictionary\'s meta.json')
    if meta.get("version") != VERSION:
        raise UserError(
            f"{path} has version {meta.get('version')}; expected {VERSION}, "
            f"which vasae_jax {__version__} reads"
        )
    if not isinstance(meta.get("sha256"), dict):
        raise UserError(f"{path} has no digests; expected the meta.json of a dictionary")
    return meta


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a dictionary: {error}; expected an .npz file") from error
    _check_arrays(arrays, str(path))
    return arrays
