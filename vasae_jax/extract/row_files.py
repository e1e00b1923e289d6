"""Readers of rows of other programs: NumPy files, safetensors, SAELens' Arrow files, saev's shards.

Rows are read when they are needed.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vasae_jax.extract.arrow_files import mapped_table
from vasae_jax.extract.external_rows import ExternalRows
from vasae_jax.extract.saev_rows import METADATA, SHARDS, saev_rows
from vasae_jax.extract.text_files import import_extra
from vasae_jax.sites import site_of_hook
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.files import expand_user, path_inside
from vasae_jax.utils.read_json import read_json_object
from vasae_jax.utils.safetensors_files import SafetensorsFile

ARRAYS = {
    "rows": ("rows",),
    "tokens": ("tokens", "input_ids"),
    "docs": ("docs",),
    "mask": ("mask", "attention_mask"),
    "positions": ("positions", "position_ids"),
}
"""Arrays that are read, and what each may be called."""
TOKEN_IDS = "token_ids"
"""What SAELens calls tokens."""
FOLDERS = {"npy": ["rows.npy"], "sae_lens": ["dataset_info.json"], "saev": [METADATA, SHARDS]}
"""The files by which a folder of each kind is recognised."""


def open_rows(
    source: str,
    kind: str = "auto",
    *,
    context_length: int | None = None,
    layer: int | None = None,
    tokens: str | None = None,
    shuffled: bool = False,
) -> ExternalRows:
    """Open rows that another program stored.

    Args:
        source: ``npy``: a folder with rows.npy [W, T, d] and tokens.npy [W, T], and where there
            are such docs.npy [W] or [W, T], mask.npy and positions.npy [W, T], as
            :class:`ExternalRows` has them. ``safetensors``: a file with tensors of these names.
            ``sae_lens``: a folder of its CacheActivationsRunner. ``saev``: a folder of its shards.
        kind: one of these; ``auto`` goes by the files that are there.
        context_length: T, for rows [N, d] and tokens [N] of windows laid end to end. Not needed
            for rows that have positions or none at all.
        layer: the layer to read, where the source has several.
        tokens: .npy file of token ids, int [W, T], for a source without them.
        shuffled: whether the rows are in no order.

    Raises:
        UserError: no such source, a missing array, counts that do not agree, tokens twice.
    """
    path = expand_user(source)
    kind = _kind_of(path) if kind == "auto" else kind
    token_ids = None if tokens is None else _load(expand_user(tokens))
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
    if context_length is None and (shuffled or "positions" in arrays):
        context_length = 1
    return _of_arrays(source, arrays, context_length)


def _of_arrays(source: str, arrays: dict[str, np.ndarray], length: int | None) -> ExternalRows:
    docs = arrays.pop("docs", None)
    if docs is not None and docs.shape == arrays["tokens"].shape:  # one a row, as in an export
        docs = _windows(docs, "docs", length)
        if (docs == docs[:, :1]).all():
            docs = docs[:, 0]
    each = {name: _windows(array, name, length) for name, array in arrays.items()}
    rows = each["rows"]
    return ExternalRows(
        source,
        rows.shape,
        lambda first, last: np.asarray(rows[first:last]),
        each["tokens"],
        docs,
        each.get("mask"),
        each.get("positions"),
        dtype=rows.dtype,
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
    names = _named({file.stem for file in path.glob("*.npy")}, path)
    return {name: _load(path / f"{stored}.npy") for name, stored in names.items()}


def _named(stored: set[str], path: Path) -> dict[str, str]:
    """What each of ARRAYS is called among ``stored``; UserError if one is there twice."""
    names = {}
    for name, aliases in ARRAYS.items():
        there = [alias for alias in aliases if alias in stored]
        if len(there) > 1:
            raise UserError(f"{path} has both {' and '.join(there)}; expected one of them")
        if there:
            names[name] = there[0]
    return names


def _load(file: Path) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # whatever NumPy meets in a header, which is a Python literal
        raise UserError(f"{file} cannot be read as .npy ({first_line(error)})") from error
    if not isinstance(array, np.ndarray):
        raise UserError(f"{file} holds several arrays; expected one, as in .npy")
    # NumPy does not store the name of bfloat16, the one such type of two bytes.
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    file = SafetensorsFile(path)
    names = _named({*file.types}, path)
    return {name: file.read(stored) for name, stored in names.items()}


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
    others = _named({*table.column_names}, path)
    if TOKEN_IDS in table.column_names:
        others["tokens"] = TOKEN_IDS
    hooks = [name for name in table.column_names if name not in others.values()]
    if "tokens" not in others or len(hooks) != 1:
        raise UserError(
            f"{path} has columns {', '.join(table.column_names)}; expected one of activations and "
            f"{TOKEN_IDS} (SAELens writes these where its store has them)"
        )
    length, width = _column_shape(path, hooks[0])
    column = table.column(hooks[0])
    each = {name: _column(table, stored, path, length) for name, stored in others.items()}
    count = sum(len(_values(chunk)) for chunk in column.chunks)
    if count != table.num_rows * length * width:
        raise UserError(
            f"{path} has {count:,} values in {hooks[0]}; expected {table.num_rows:,} windows of "
            f"{length} by {width}"
        )

    def read(first: int, last: int) -> np.ndarray:
        with _lists(path, hooks[0], f"[{length}, {width}]"):
            part = _values(column.slice(first, last - first).combine_chunks())
            rows: np.ndarray = part.to_numpy(zero_copy_only=False)
            return rows.reshape(last - first, length, width)

    return ExternalRows(
        str(path),
        (table.num_rows, length, width),
        read,
        each["tokens"],
        each.get("docs"),
        each.get("mask"),
        each.get("positions"),
        site=site_of_hook(hooks[0], path),
        dtype=read(0, 1).dtype,
        expects_bos=True,
    )


@contextlib.contextmanager
def _lists(path: Path, name: str, shape: str) -> Iterator[None]:
    """Turn what Arrow raises for a column of other values into one sentence."""
    try:
        yield
    except (AttributeError, ValueError, TypeError, NotImplementedError, IndexError) as error:
        raise UserError(
            f"{path} has a column {name} that cannot be read ({first_line(error)}); expected lists "
            f"of shape {shape}"
        ) from error


def _values(part: Any) -> Any:
    """All numbers of a column of matrices; none of another column."""
    for _ in range(2):
        part = getattr(part, "storage", part)
        part = part.flatten() if hasattr(part.type, "value_type") else part.slice(0, 0)
    return part


def _column(table: Any, name: str, path: Path, length: int) -> np.ndarray:
    """A column of lists of ``length`` integers as [W, T]; UserError for others."""
    with _lists(path, name, f"[{length}]"):
        values = table.column(name).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if len(values) != table.num_rows * length:
        raise UserError(
            f"{path} has {len(values)} values in its column {name}; expected {length} in each of "
            f"{table.num_rows} windows"
        )
    array: np.ndarray = values.reshape(-1, length)
    return array


def _arrow_table(path: Path) -> Any:
    arrow, state = import_extra("pyarrow", path), path / "state.json"
    record = read_json_object(state, "the list of its Arrow files")
    try:
        names = [file["filename"] for file in record["_data_files"]]
        tables = [mapped_table(path_inside(path, name, state)) for name in names]
        # Their metadata would make pyarrow look for the column types of ``datasets``.
        table = arrow.concat_tables([table.replace_schema_metadata(None) for table in tables])
        return table.rename_columns(table.column_names)  # which are text, or this raises
    except UserError:
        raise
    except Exception as error:  # whatever Arrow raises for a damaged file
        raise UserError(f"{path} cannot be read as Arrow files ({first_line(error)})") from error


def _column_shape(path: Path, hook: str) -> tuple[int, int]:
    """Window length and width of a column, from dataset_info.json."""
    info = read_json_object(path / "dataset_info.json", "the columns of its Arrow files")
    try:
        length, width = info["features"][hook]["shape"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not state the shape of {hook} ({error})") from error
    if type(length) is not int or type(width) is not int or min(length, width) < 1:
        raise UserError(
            f"{path} states the shape {[length, width]!r:.80} of {hook}; expected two sizes"
        )
    return length, width
