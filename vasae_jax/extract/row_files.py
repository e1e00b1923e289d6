"""Readers of rows of other programs: NumPy files, safetensors, SAELens' Arrow files, saev's shards.

Rows are read when they are needed.
"""

import json
from pathlib import Path
from typing import Any

# Registers bfloat16 with NumPy; the safetensors package looks it up by name.
import ml_dtypes  # noqa: F401
import numpy as np
import safetensors

from vasae_jax.extract.import_rows import ExternalRows
from vasae_jax.extract.saev_rows import METADATA, SHARDS, saev_rows
from vasae_jax.extract.text import import_extra
from vasae_jax.sites import site_of_hook
from vasae_jax.utils.errors import UserError

ARRAYS = ("rows", "tokens", "docs")
FOLDERS = {"npy": ["rows.npy"], "sae_lens": ["dataset_info.json"], "saev": [METADATA, SHARDS]}
"""The files by which a folder of each kind is recognised."""


def open_rows(
    source: str,
    kind: str = "auto",
    *,
    context_length: int | None = None,
    layer: int | None = None,
    tokens: str | None = None,
) -> ExternalRows:
    """Open rows that another program stored.

    Args:
        source: ``npy``: a folder with rows.npy [W, T, d] and tokens.npy [W, T], and docs.npy [W]
            where there are documents. ``safetensors``: a file with tensors of these names.
            ``sae_lens``: a folder of its CacheActivationsRunner. ``saev``: a folder of its shards.
        kind: one of these; ``auto`` goes by the files that are there.
        context_length: T, for rows [N, d] and tokens [N] of windows laid end to end.
        layer: the layer to read, where the source has several.
        tokens: .npy file of token ids, int [W, T], for a source without them.

    Raises:
        UserError: no such source, a missing array, counts that do not agree, tokens twice.
    """
    path = Path(source).expanduser()
    kind = _kind_of(path) if kind == "auto" else kind
    token_ids = None if tokens is None else _load(Path(tokens).expanduser())
    if kind == "saev":
        return saev_rows(path, layer, token_ids)
    arrays = {} if kind == "sae_lens" else _npy(path) if kind == "npy" else _safetensors(path)
    if token_ids is not None:
        if kind == "sae_lens" or "tokens" in arrays:
            raise UserError(f"{source} has token ids; expected no --tokens beside them")
        arrays["tokens"] = token_ids
    if kind == "sae_lens":
        return _sae_lens(path)
    for name in ("rows", "tokens"):
        if name not in arrays:
            present = ", ".join(sorted(arrays)) or "nothing"
            raise UserError(f"{source} has no {name}; found {present}")
    docs = arrays.get("docs")
    if docs is not None and docs.shape == arrays["tokens"].shape:  # one a row, as in an export
        docs = _windows(docs, "docs", context_length)[:, 0]
    rows, token_ids = (_windows(arrays[name], name, context_length) for name in ("rows", "tokens"))
    return ExternalRows(
        source, rows.shape, lambda first, last: np.asarray(rows[first:last]), token_ids, docs
    )


def _kind_of(path: Path) -> str:
    if path.is_file() and path.suffix == ".safetensors":
        return "safetensors"
    for kind, names in FOLDERS.items():
        if all((path / name).is_file() for name in names):
            return kind
    raise UserError(
        f"{path} holds no rows that are known; expected a folder with rows.npy and tokens.npy, a "
        ".safetensors file, a folder of SAELens' CacheActivationsRunner, or saev's shards"
    )


def _npy(path: Path) -> dict[str, np.ndarray]:
    files = {name: path / f"{name}.npy" for name in ARRAYS}
    return {name: _load(file) for name, file in files.items() if file.is_file()}


def _load(file: Path) -> np.ndarray:
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        return array
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{file} cannot be read as .npy ({error})") from error


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in {*ARRAYS} & {*file.keys()}}
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error})") from error


def _windows(array: np.ndarray, name: str, length: int | None) -> np.ndarray:
    """``array`` with an axis of windows before that of positions."""
    axes = 3 if name == "rows" else 2
    if array.ndim == axes:
        return array
    if array.ndim != axes - 1:
        raise UserError(f"{name} has {array.ndim} axes; expected {axes}, or {axes - 1} laid flat")
    if length is None or length < 1 or len(array) % length:
        raise UserError(
            f"{name} has {len(array)} rows laid flat; expected --context-length to divide them "
            "into windows"
        )
    return array.reshape(-1, length, *array.shape[1:])


def _sae_lens(path: Path) -> ExternalRows:
    """SAELens' Arrow files: a column [T, d] named after the hook, and ``token_ids`` [T]."""
    table = _arrow_table(path)
    hooks = [name for name in table.column_names if name != "token_ids"]
    if "token_ids" not in table.column_names or len(hooks) != 1:
        raise UserError(
            f"{path} has columns {', '.join(table.column_names)}; expected one of activations and "
            "token_ids (SAELens writes these where its store has them)"
        )
    length, width = _column_shape(path, hooks[0])
    column = table.column(hooks[0])

    def read(first: int, last: int) -> np.ndarray:
        part = column.slice(first, last - first).combine_chunks()
        values = getattr(part, "storage", part).flatten().flatten()
        rows: np.ndarray = values.to_numpy(zero_copy_only=False).reshape(-1, length, width)
        return rows

    tokens = table.column("token_ids").combine_chunks().flatten().to_numpy().reshape(-1, length)
    site = site_of_hook(hooks[0], path)
    return ExternalRows(str(path), (table.num_rows, length, width), read, tokens, site=site)


def _arrow_table(path: Path) -> Any:
    arrow = import_extra("pyarrow", path)
    try:
        state = json.loads((path / "state.json").read_bytes())
        files = [str(path / file["filename"]) for file in state["_data_files"]]
        tables = [arrow.ipc.open_stream(arrow.memory_map(file)).read_all() for file in files]
        # Their metadata would make pyarrow look for the column types of ``datasets``.
        return arrow.concat_tables([table.replace_schema_metadata(None) for table in tables])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as Arrow files ({error})") from error


def _column_shape(path: Path, hook: str) -> tuple[int, int]:
    """Window length and width of a column, from dataset_info.json."""
    try:
        features = json.loads((path / "dataset_info.json").read_bytes())["features"]
        length, width = features[hook]["shape"]
        return int(length), int(width)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not state the shape of {hook} ({error})") from error
