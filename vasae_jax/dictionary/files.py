"""A dictionary on disk: the ``.npz`` that was asked for, ``names.jsonl`` and ``meta.json``.

Described in docs/dictionary.md; ``meta.json`` holds the digests of the other two.
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.named.arrays import ARRAYS, check_arrays
from vasae_jax.named.dictionary import Dictionary
from vasae_jax.named.files import META, NAMES
from vasae_jax.named.files import read_dictionary as read_dictionary
from vasae_jax.named.words import RELATIONS, VERDICTS
from vasae_jax.naming.claim import bucket_names, bucket_of
from vasae_jax.system.errors import UserError
from vasae_jax.system.files import atomic_file, refuse_existing, sha256_bytes, sha256_file


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
        refuse_existing(path, overwrite=overwrite)
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
    check_arrays(arrays, str(paths[0]))
    names = names_text(dictionary)
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


def _arrays(dictionary: Dictionary) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(getattr(dictionary, name), dtype) for name, (dtype, _) in ARRAYS.items()
    }


def names_text(dictionary: Dictionary) -> bytes:
    """The content of names.jsonl."""
    buckets = bucket_of(dictionary.cosines[:, 0])
    lines = []
    for feature in range(dictionary.d_sae):
        record = {
            "feature": feature,
            **_layer_record(dictionary, feature),
            "names": _embedding_names(dictionary, feature),
            "bucket": bucket_names()[buckets[feature]],
            "fire_rate": float(f"{dictionary.fire_rate[feature]:.6g}"),
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    text = "".join(lines)
    for character in "\u0085\u2028\u2029":  # ends of a line to readers that split by Unicode
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace")


def _layer_record(dictionary: Dictionary, feature: int) -> dict[str, Any]:
    columns = (dictionary.layer_token_ids, dictionary.layer_hold, dictionary.layer_lift)
    names = [
        {**_token(dictionary, token), "hold": round(hold, 6), "lift": round(lift, 2), "rows": rows}
        for token, hold, lift, rows in zip(
            *(column[feature].tolist() for column in (*columns, dictionary.layer_rows)), strict=True
        )
    ]
    return {
        "layer_names": names,
        "relation": RELATIONS[dictionary.layer_relation[feature]],
        "hold": round(float(dictionary.hold[feature]), 6),
        "verdict": VERDICTS[int(dictionary.verdict[feature])],
    }


def _embedding_names(dictionary: Dictionary, feature: int) -> list[dict[str, Any]]:
    columns = (dictionary.token_ids[feature].tolist(), dictionary.cosines[feature].tolist())
    return [
        {**_token(dictionary, token), "cosine": round(cosine, 6)}
        for token, cosine in zip(*columns, strict=True)
    ]


def _token(dictionary: Dictionary, token: int) -> dict[str, Any]:
    raw, display = dictionary.tokens[token]
    return {"token_id": token, "raw": raw, "display": display}
