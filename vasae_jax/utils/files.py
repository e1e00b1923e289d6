"""Atomic writes, checks before writing, names of files in files, and SHA-256 digests."""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from vasae_jax.utils.errors import UserError


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a temporary file that is renamed to ``path`` when the block ends without an error.

    The file is flushed to disk before the rename and the directory after it, so after a crash
    ``path`` has either its old content or the complete new one.

    Raises:
        UserError: the directory cannot be created or written, or the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = tempfile.NamedTemporaryFile(  # noqa: SIM115 (closed below, then renamed)
            dir=target.parent, prefix=target.name + ".", delete=False
        )
    except OSError as error:
        raise write_error(target, error) from error
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(handle.name, 0o666 & ~_umask())
        os.replace(handle.name, target)
        _sync_directory(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(handle.name)
        if isinstance(error, OSError):
            raise write_error(target, error) from error
        raise


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` atomically; raises UserError if that fails."""
    with atomic_file(path) as handle:
        handle.write(data)


def json_text(value: Any, path: str | os.PathLike[str], **options: Any) -> str:
    """``value`` as JSON for the file ``path``; ``options`` are those of :func:`json.dumps`.

    Raises:
        UserError: it has a number that is not finite, for which JSON has no word.
    """
    try:
        text = json.dumps(value, allow_nan=False, **options)
        if not _is_utf8(
            text
        ):  # a path may have bytes that are not: \udc80 and so on stand for them
            text = json.dumps(value, allow_nan=False, **options | {"ensure_ascii": True})
        return text
    except ValueError as error:
        name = _not_finite(value) or str(error)
        raise UserError(f"{path} cannot be written: {name}; expected finite numbers") from error


def _not_finite(value: Any, name: str = "") -> str | None:
    """The name and value of the first number in nested JSON values that is not finite, or None."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{name.lstrip('.') or 'the value'} is {value}"
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
    found = (_not_finite(part, f"{name}.{key}") for key, part in parts)
    return next(filter(None, found), None)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON to ``path`` atomically.

    Raises:
        UserError: it has a number that is not finite, or the disk is full or not writable.
    """
    write_bytes(path, json_bytes(value, path))


def json_bytes(value: Any, path: str | os.PathLike[str]) -> bytes:
    """``value`` as indented UTF-8 JSON for the file ``path``; half a surrogate pair as its escape.

    Raises:
        UserError: it has a number that is not finite.
    """
    text = json_text(value, path, indent=2, ensure_ascii=False)
    return (text + "\n").encode("utf-8", "backslashreplace")


def path_inside(folder: Path, name: Any, named_by: str | os.PathLike[str]) -> Path:
    """The path in ``folder`` of a file that the file ``named_by`` names, which need not be there.

    Raises:
        UserError: it is no relative path, or leads out of the folder.
    """
    if isinstance(name, str) and name and "\0" not in name:
        pure = PurePosixPath(name)
        if not pure.is_absolute() and ".." not in pure.parts and pure.parts:
            return folder / pure
    raise UserError(
        f"{os.fspath(named_by)} names a file {name!r:.80}; expected the name of one in {folder}"
    )


def write_error(path: str | os.PathLike[str], error: OSError) -> UserError:
    """The UserError for a ``path`` that could not be written."""
    return UserError(
        f"cannot write {path}: {error.strerror or error}; expected a writable place with free space"
    )


def refuse_url(path: str | os.PathLike[str]) -> None:
    """Raise UserError if ``path`` is a URL, which would be taken for a folder of such a name."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", os.fspath(path)):
        raise UserError(f"{path} is a URL; expected a path on this machine")


def refuse_existing(path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Raise UserError if ``path`` exists, unless ``overwrite`` is set, or is a URL."""
    refuse_url(path)
    if Path(path).exists() and not overwrite:
        raise UserError(f"{path} exists already; expected a new path, or --overwrite to replace it")


def require_space(directory: str | os.PathLike[str], nbytes: int) -> None:
    """Raise UserError if the disk of an existing ``directory`` has less than ``nbytes`` free."""
    free = shutil.disk_usage(directory).free
    if free < nbytes:
        raise UserError(
            f"{directory} has {free / 2**20:,.1f} MiB free; expected {nbytes / 2**20:,.1f} MiB "
            "for what is to be written next; what is there already is kept"
        )


def require_utf8(path: str | os.PathLike[str]) -> None:
    """Raise UserError where the system's name of ``path`` is other than UTF-8.

    TensorStore, which reads and writes arrays, takes every path for UTF-8: it would look elsewhere.
    """
    full = os.path.abspath(path)
    if not _is_utf8(full) or os.fsencode(full) != full.encode():
        raise UserError(
            f"{full!a} is not a path in UTF-8, or the locale is not; expected such a path, and "
            "a locale such as LC_ALL=C.UTF-8 (see also PYTHONUTF8)"
        )


def _is_utf8(text: str) -> bool:
    """Whether a text can be written as UTF-8: it has no half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sha256_bytes(data: bytes | memoryview) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file's content, read in pieces."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_array(array: np.ndarray) -> str:
    """Hexadecimal SHA-256 of an array's dtype, shape and row-major bytes."""
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def user_cache() -> Path:
    """The user's directory for downloads, compiled programs and measurements.

    ``$VASAE_CACHE``, or else ``vasae_jax`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        UserError: none of these is known: there is no HOME, and the system knows no such user.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    directory = expand_user(os.environ.get("VASAE_CACHE") or f"{base}/vasae_jax")
    if directory.parts[0].startswith("~"):
        raise UserError(
            f"{directory} is not known, since this user has no home directory; expected HOME, "
            "XDG_CACHE_HOME or VASAE_CACHE to be set"
        )
    return directory


def expand_user(path: str | os.PathLike[str]) -> Path:
    """``path`` with ``~`` as the home directory; as it is where no such directory is known."""
    return Path(os.path.expanduser(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
