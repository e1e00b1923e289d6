"""A dictionary on disk: an ``.npz``, ``names.jsonl`` and ``meta.json``.

docs/dictionary.md describes them. ``meta.json`` holds the digests of the other two, against which
they are read.
"""

import contextlib
import os
import reprlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax import __version__
from vasae_jax.dictionary.checks import check_content, check_meta, used_tokens
from vasae_jax.dictionary.claims import bucket_names, bucket_of
from vasae_jax.dictionary.dictionary import (
    ARRAYS,
    Dictionary,
    check_arrays,
    fill_old,
    read_activation,
)
from vasae_jax.dictionary.lookup import LayerName
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import (
    atomic_file,
    json_bytes,
    json_text,
    refuse_existing,
    sha256_bytes,
    sha256_file,
)
from vasae_jax.utils.hub import download
from vasae_jax.utils.read_json import parse_json_object, read_json_object
from vasae_jax.utils.shown import shown
from vasae_jax.utils.sizes import read_npz

FORMAT, VERSION = "vasae-dictionary", 5
READABLE = (2, 3, 4, VERSION)
"""Versions that are read; 2 has no threshold, 3 does not name the activation, 4 tested names
together."""
NPZ, NAMES, META = "dictionary.npz", "names.jsonl", "meta.json"
CONFIG, WEIGHTS, NAME_ARRAYS = "cfg.json", "sae_weights.safetensors", "names.safetensors"
"""Of the layout for the Hugging Face hub: SAELens' own two files, and the arrays beside them."""
HUB_FILES = {"weights": WEIGHTS, "config": CONFIG, "name_arrays": NAME_ARRAYS, "names": NAMES}
"""Files of that layout by their keys in meta.json."""
WEIGHT_NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")
"""Arrays that are in SAELens' file."""
_HUB = "hf://"


def load(path: str | os.PathLike[str]) -> Dictionary:
    """Open a named dictionary, with NumPy alone.

    Args:
        path: its ``.npz``, the folder that holds it (such as ``out/quickstart``), a folder of
            ``vasae export --layout huggingface``, or ``hf://OWNER/NAME`` for one on the hub.

    >>> sae = vj.load(folder)
    >>> sae.d_in, sae.d_sae, sae.k
    (6, 20, 4)

    Raises:
        UserError: no dictionary is there, or what :func:`read_dictionary` raises.
    """
    place = Path(path)
    if str(path).startswith(_HUB):
        place = download(str(path).removeprefix(_HUB), [*HUB_FILES.values(), META])
    if not place.is_dir():
        return read_dictionary(place)
    if (place / NAME_ARRAYS).is_file():
        return _read_folder(place)
    if (place / NPZ).is_file():
        return read_dictionary(place / NPZ)
    archives = sorted(place.glob("*.npz"))
    if len(archives) != 1:
        raise UserError(
            f"{place} holds {len(archives)} .npz files; expected a dictionary's folder, "
            "as vasae export RUN --out FOLDER/dictionary.npz makes it"
        )
    return read_dictionary(archives[0])


def read_dictionary(npz: str | os.PathLike[str]) -> Dictionary:
    """Read a dictionary from its ``.npz`` and the two files beside it.

    Raises:
        UserError: a file is missing, foreign, of a newer version, damaged, or not the one
            that was written with the others.
    """
    path = Path(npz)
    files = {"npz": path, "names": path.parent / NAMES}
    meta = _read_meta(path.parent / META, files)
    return _dictionary(_read_npz(path), str(path), files["names"], meta)


def _read_folder(folder: Path) -> Dictionary:
    """A dictionary in the layout for the hub; raises as :func:`read_dictionary` does."""
    from vasae_jax.utils.safetensors_files import read_safetensors

    meta = _read_meta(folder / META, {key: folder / name for key, name in HUB_FILES.items()})
    arrays = {**read_safetensors(folder / NAME_ARRAYS), **read_safetensors(folder / WEIGHTS)}
    return _dictionary(arrays, str(folder), folder / NAMES, meta)


def _dictionary(
    arrays: dict[str, np.ndarray], where: str, names: Path, meta: dict[str, Any]
) -> Dictionary:
    """The dictionary of the arrays in ``where``, checked; those of no use here are left out."""
    with contextlib.suppress(KeyError):  # of an array that no version lacks: see check_arrays
        fill_old(arrays)
    check_arrays(arrays, where)
    try:
        activation = read_activation(meta.get("activation"), arrays)
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(
            f"{META} of {where} has activation {meta.get('activation')!r}, which cannot be "
            f"understood ({error}); expected its kind and settings"
        ) from error
    check_arrays(arrays, where, activation.extra_params)
    kept: dict[str, Any] = {
        name: arrays[name] for name in ARRAYS if name not in ("k", "pre_bias", "threshold")
    }
    tokens = _Tokens(names)
    dictionary = Dictionary(
        **kept,
        activation=activation,
        pre_bias=float(arrays["pre_bias"]),
        extra_params={name: arrays[name] for name in activation.extra_params},
        tokens=tokens,
        meta=meta,
    )
    check_meta(meta, f"{META} of {where}")
    check_content(dictionary, where)
    tokens.used = used_tokens(dictionary)
    return dictionary


class _Tokens(Mapping[int, tuple[str, str]]):
    """The strings in names.jsonl, read at the first look-up: weights alone open sooner."""

    def __init__(self, names: Path) -> None:
        self._path = names
        self.used: set[int] = set()
        """The ids that must have strings."""

    @cached_property
    def _strings(self) -> dict[int, tuple[str, str]]:
        strings = _read_strings(self._path)
        if lacking := self.used - set(strings):
            raise UserError(
                f"{self._path} has no token {min(lacking)}, which is a name; expected it"
            )
        return strings

    def __getitem__(self, token: int) -> tuple[str, str]:
        return self._strings[token]

    def __iter__(self) -> Iterator[int]:
        return iter(self._strings)

    def __len__(self) -> int:
        return len(self._strings)


def _read_strings(names: Path) -> dict[int, tuple[str, str]]:
    try:
        with open(names, "rb") as lines:
            return {token: strings for line in lines for token, strings in _names_of(line, names)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{names} cannot be understood ({error}); expected the names of a dictionary"
        ) from error


def _names_of(line: bytes, where: Path) -> Iterator[tuple[int, tuple[str, str]]]:
    """The token ids in a line of names.jsonl with their two strings.

    Raises:
        UserError: the line is no JSON. ValueError, KeyError, TypeError: of other content.
    """
    record = parse_json_object(line, where, "the names of a dictionary", half_pairs=True)
    for name in (*record["names"], *record["layer_names"]):
        token, strings = name["token_id"], (name["raw"], name["display"])
        if type(token) is not int or not all(isinstance(string, str) for string in strings):
            raise ValueError(f"it has a name {reprlib.repr(name)}")
        yield token, (strings[0], shown(strings[1]))


def _read_meta(path: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """The content of meta.json, after a check of the other ``files``, by their keys in it."""
    names = ", ".join(file.name for file in files.values())
    for file in files.values():
        if not file.is_file():
            raise UserError(
                f"{file} is not there; expected a dictionary's {names} and {META} in one directory"
            )
    meta = read_json_object(path, "the meta.json of a dictionary", half_pairs=True)
    if meta.get("format") != FORMAT:
        raise UserError(f'{path} lacks "format": "{FORMAT}"; expected a dictionary\'s meta.json')
    if meta.get("version") not in READABLE:
        raise UserError(
            f"{path} has version {meta.get('version')}; "
            f"expected {' or '.join(map(str, READABLE))}, which vasae_jax {__version__} reads"
        )
    digests = meta.get("sha256")
    if not isinstance(digests, dict):
        raise UserError(f"{path} has no digests; expected the meta.json of a dictionary")
    for key, file in files.items():
        if digests.get(key) != sha256_file(file):
            raise UserError(
                f"{file} is not the file that {path.name} was written with; "
                "expected the files of one export"
            )
    return meta


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        return read_npz(path)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a dictionary: {error}; expected an .npz file") from error


def check_outputs(out_npz: str | os.PathLike[str], overwrite: bool) -> tuple[Path, Path, Path]:
    """The paths that :func:`write_dictionary` will write: the ``.npz``, names and metadata.

    Raises:
        UserError: the name does not end in .npz, or one of the files exists (and ``overwrite``
            is False, or the metadata is not that of a dictionary).
    """
    npz = Path(out_npz)
    if npz.suffix != ".npz":
        raise UserError(f"{npz} is not an .npz name; expected something like dictionary.npz")
    paths = (npz, npz.parent / NAMES, npz.parent / META)
    for path in paths:
        refuse_existing(path, overwrite=overwrite)
    if paths[2].exists():
        found = read_json_object(paths[2], "a dictionary's metadata, to replace its files")
        if found.get("format") != FORMAT:
            raise UserError(f"{paths[2]} is not a dictionary's; --overwrite replaces no other file")
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
    arrays: dict[str, Any] = arrays_of(dictionary)
    check_arrays(arrays, str(paths[0]), dictionary.activation.extra_params)
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
        meta_file.write(meta_text(dictionary, digests))
        for file in (meta_file, names_file):
            file.flush()
    return paths


def arrays_of(dictionary: Dictionary) -> dict[str, np.ndarray]:
    """The arrays of the ``.npz``: those in ARRAYS, and what its activation adds."""
    arrays = {
        name: np.asarray(getattr(dictionary, name), dtype) for name, (dtype, _) in ARRAYS.items()
    }
    return {**arrays, **dictionary.extra_params}


def meta_text(dictionary: Dictionary, digests: Mapping[str, str]) -> bytes:
    """The content of meta.json beside files of these ``digests``."""
    content = {**dictionary.meta, "activation": dictionary.activation.to_json(), "sha256": digests}
    return json_bytes(content, META)


def names_text(dictionary: Dictionary) -> bytes:
    """The content of names.jsonl."""
    buckets = bucket_of(dictionary.cosines[:, 0])
    lines = []
    for feature in range(dictionary.d_sae):
        names = dictionary.names(feature)
        record = {
            "feature": feature,
            "layer_names": [
                {
                    **_token(dictionary, name.token_id),
                    "hold": round(name.hold, 6),
                    "lift": round(name.lift, 2),
                    "rows": name.rows,
                    **_tested(name),
                }
                for name in names.layer
            ],
            "relation": names.relation,
            "hold": round(names.hold, 6),
            "verdict": names.verdict,
            "verdict_together": names.verdict_together,
            "names": [
                {**_token(dictionary, name.token_id), "cosine": round(name.cosine, 6)}
                for name in names.embedding
            ],
            "bucket": bucket_names()[buckets[feature]],
            "fire_rate": float(f"{names.fire_rate:.6g}"),
        }
        lines.append(json_text(record, NAMES, ensure_ascii=False) + "\n")
    text = "".join(lines)
    for character in "\u0085\u2028\u2029":  # ends of a line to readers that split by Unicode
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace")


def _tested(name: LayerName) -> dict[str, Any]:
    """What is known of a name that was tested by itself."""
    if name.precision is None or name.recall is None:
        return {}
    return {
        "text_rows": name.text_rows,
        "precision": round(name.precision, 6),
        "recall": round(name.recall, 6),
        "verdict": name.verdict,
    }


def _token(dictionary: Dictionary, token: int) -> dict[str, Any]:
    raw, display = dictionary.tokens[token]
    return {"token_id": token, "raw": raw, "display": display}
