"""Where given rows come from: NumPy files, safetensors, SAELens' activations, saev's shards."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Registers bfloat16 with NumPy, which the safetensors package asks for by name.
import ml_dtypes  # noqa: F401
import numpy as np
import safetensors

from vasae_jax.extract.import_rows import GivenRows, Read, make_rows
from vasae_jax.extract.saev_rows import is_saev, saev_rows
from vasae_jax.sites import site_of_hook
from vasae_jax.utils.errors import UserError

KINDS = ("auto", "npy", "safetensors", "sae_lens", "saev")


@dataclass(frozen=True)
class Beside:
    """What is said beside a source that does not say it itself."""

    context_length: int | None = None
    """T, for rows [N, d] and tokens [N] of windows laid end to end."""
    layer: int | None = None
    """Which of several layers."""
    tokens: str | None = None
    """An .npy file of token ids, int [W, T]."""


NOTHING = Beside()


def open_rows(source: str, kind: str = "auto", beside: Beside = NOTHING) -> GivenRows:
    """Open given rows; they are read when they are asked for.

    Args:
        source: ``npy``: a folder with rows.npy [W, T, d] and tokens.npy [W, T], and docs.npy [W]
            where there are documents. ``safetensors``: a file with tensors of these names.
            ``sae_lens``: a folder of its CacheActivationsRunner. ``saev``: a folder of its shards.
        kind: one of KINDS; ``auto`` goes by the files that are there.
        beside: what the source does not say.

    Raises:
        UserError: no such source, a missing array, counts that do not agree, tokens twice.
    """
    path = Path(source).expanduser()
    kind = _kind(path) if kind == "auto" else kind
    given = None if beside.tokens is None else _load(Path(beside.tokens).expanduser())
    if kind == "saev":
        return saev_rows(path, beside.layer, given)
    if kind == "sae_lens":
        _refuse_twice(source, given)
        return _sae_lens(path)
    arrays = _npy(path) if kind == "npy" else _safetensors(path)
    if "tokens" in arrays:
        _refuse_twice(source, given)
    elif given is not None:
        arrays["tokens"] = given
    for name in ("rows", "tokens"):
        if name not in arrays:
            found = ", ".join(sorted(arrays)) or "nothing"
            raise UserError(f"{source} has no {name}; found {found}")
    rows, tokens = (
        _windows(arrays[name], name, beside.context_length) for name in ("rows", "tokens")
    )
    docs = arrays.get("docs")
    if docs is not None and docs.shape == arrays["tokens"].shape:
        docs = _windows(docs, "docs", beside.context_length)[
            :, 0
        ]  # a number a row, as an export has
    return make_rows(source, rows.shape, _reader(rows), np.asarray(tokens), docs)


def _kind(path: Path) -> str:
    if path.is_file() and path.suffix == ".safetensors":
        return "safetensors"
    if (path / "rows.npy").is_file():
        return "npy"
    if (path / "dataset_info.json").is_file():
        return "sae_lens"
    if is_saev(path):
        return "saev"
    raise UserError(
        f"{path} holds no rows that are known; expected a folder with rows.npy and tokens.npy, a "
        ".safetensors file, a folder of SAELens' CacheActivationsRunner, or saev's shards"
    )


def _refuse_twice(source: str, given: np.ndarray | None) -> None:
    if given is not None:
        raise UserError(f"{source} has token ids; expected no --tokens beside them")


def _npy(path: Path) -> dict[str, np.ndarray]:
    files = {name: path / f"{name}.npy" for name in ("rows", "tokens", "docs")}
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
            wanted = {"rows", "tokens", "docs"} & set(file.keys())
            return {name: file.get_tensor(name) for name in wanted}
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


def _reader(rows: np.ndarray) -> Read:
    return lambda first, last: np.asarray(rows[first:last])


def _sae_lens(path: Path) -> GivenRows:
    """SAELens' Arrow files: a column [T, d] named as the hook, and ``token_ids`` [T]."""
    table = _arrow(path)
    hooks = [name for name in table.column_names if name != "token_ids"]
    if "token_ids" not in table.column_names or len(hooks) != 1:
        raise UserError(
            f"{path} has columns {', '.join(table.column_names)}; expected one of activations and "
            "token_ids (SAELens writes these where its store has them)"
        )
    width, length = _sizes(path, hooks[0])
    column = table.column(hooks[0])

    def read(first: int, last: int) -> np.ndarray:
        part = column.slice(first, last - first).combine_chunks()
        part = part.storage if hasattr(part, "storage") else part
        values = part.flatten().flatten().to_numpy(zero_copy_only=False)
        rows: np.ndarray = values.reshape(last - first, length, width)
        return rows

    tokens = table.column("token_ids").combine_chunks().flatten().to_numpy()
    shape = (table.num_rows, length, width)
    site = site_of_hook(hooks[0], path)
    return make_rows(str(path), shape, read, tokens.reshape(-1, length), site=site)


def _arrow(path: Path) -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise UserError(
            f"{path} is made of Arrow files and pyarrow is not installed; "
            "expected it from pip install 'vasae-jax[data]'"
        ) from error
    try:
        state = json.loads((path / "state.json").read_bytes())
        names = [file["filename"] for file in state["_data_files"]]
        parts = [pa.ipc.open_stream(pa.memory_map(str(path / name))).read_all() for name in names]
        return pa.concat_tables([_plain(part) for part in parts])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as Arrow files ({error})") from error


def _plain(table: Any) -> Any:
    """``table`` without the metadata by which ``datasets`` would be asked for its own types."""
    return table.replace_schema_metadata(None)


def _sizes(path: Path, hook: str) -> tuple[int, int]:
    """Width and window length of the column, by dataset_info.json."""
    try:
        features = json.loads((path / "dataset_info.json").read_bytes())["features"]
        length, width = features[hook]["shape"]
        return int(width), int(length)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not say the shape of {hook} ({error})") from error
