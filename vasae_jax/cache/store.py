"""Files and arrays under one URL: a local directory, a gs:// or an s3:// prefix.

Arrays go through TensorStore everywhere. Other files go through TensorStore's key-value
interface on buckets, where a put is atomic, and through :mod:`vasae_jax.utils.files` locally.
Reads end after PATIENCE seconds, and requests that a bucket did not answer are reported on stderr.
"""

import contextlib
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorstore as ts

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import require_utf8, sha256_bytes, sha256_file, write_bytes
from vasae_jax.utils.lock import OWNER, FolderLock
from vasae_jax.utils.replace import link_error
from vasae_jax.utils.streams import note

T = TypeVar("T")
BUCKETS = {"gs": "gcs", "s3": "s3"}
"""URL schemes of cloud storage, and TensorStore's driver for each."""
DIGEST_THREADS = 4  # shard files read at once; one in a bucket is held in memory
UNBOUNDED = 2**40  # rows of an array that is still being written: far above any real count
_OS_ERRORS = {
    "27": "a file grew too large",
    "28": "the disk is full",
    "122": "the disk quota is used up",
}
PATIENCE = 300.0
"""Seconds after which a read that storage has not answered is given up."""
RETRIES = {"max_retries": 12, "initial_delay": "1s", "max_delay": "32s"}
"""How TensorStore repeats a bucket's request that failed. The delays sum to 255 s, with up to a
second each on top: less than PATIENCE, so that the error is the bucket's own."""
_POLL = 1.0  # seconds of waiting between two looks at the number of retries
_lock, _reported_retries = threading.Lock(), 0


def wait(future: "ts.Future[T]") -> T:
    """The result of a read; raises its error, or TimeoutError after PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while True:
        left = end - time.monotonic()
        try:
            return future.result(timeout=max(0.0, min(_POLL, left)))
        except TimeoutError as error:
            if left <= _POLL:
                raise TimeoutError(f"no answer for {PATIENCE:g} s") from error
        finally:
            _report_retries()


def _report_retries() -> None:
    """Print how many requests were retried since the last report, if any were."""
    global _reported_retries
    retries = 0
    with _lock:
        for driver in BUCKETS.values():
            name = f"/tensorstore/kvstore/{driver}/retries"
            for metric in ts.experimental_collect_matching_metrics(name):
                retries += sum(value["value"] for value in metric["values"])
        new, _reported_retries = retries - _reported_retries, retries
    if new > 0:
        sentence = f"the bucket failed for a moment: {new} request(s) made again"
        note(sentence)


def absolute_url(url: str) -> str:
    """``url``, where a local directory is named from the root: the same from every place."""
    return url if "://" in url else os.path.abspath(url)


class Store:
    """The files under ``url``; keys are slash-separated relative names.

    Raises:
        UserError: the URL has another scheme, or names no bucket.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.local, self._base = _base_spec(os.fspath(url))
        self.url = os.fspath(url).rstrip("/") or "/"
        self._kv: ts.KvStore | None = None

    def spec(self, key: str) -> dict[str, Any]:
        """TensorStore's key-value spec of ``key``."""
        return self._base | {"path": self._base["path"] + key}

    def name(self, key: str) -> str:
        """The full name of ``key``, for messages."""
        return f"{self.url}/{key}"

    def read(self, key: str) -> bytes | None:
        """The content of a file, or None where there is none; raises UserError."""
        if self.local and not self._path(key).is_file():  # a named pipe would be waited for
            return None
        with self.errors(f"cannot read {self.name(key)}", "a readable cache"):
            result = wait(self._open().read(key))
        return result.value if result.state == "value" else None

    def write(self, key: str, data: bytes) -> None:
        """Store a file atomically and durably; raises UserError where that is impossible."""
        self._refuse_links(key)
        if self.local:
            write_bytes(self._path(key), data)
            return
        with self.errors(f"cannot write {self.name(key)}", "a writable place with free space"):
            self._open().write(key, data).result()

    def delete(self, key: str) -> None:
        """Remove a file, if there is one, and the folders that it leaves empty."""
        self._refuse_links(key)
        with self.errors(f"cannot delete {self.name(key)}", "a writable place"):
            if not self.local:
                self._open().write(key, None).result()
                return
            self._path(key).unlink(missing_ok=True)
            for folder in self._path(key).parents[: key.count("/")]:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()

    def keys(self, folder: str) -> list[str]:
        """All files below ``folder``, with any lock files that a killed writer left."""
        if self.local:
            root = Path(self.url)
            files = sorted(path for path in (root / folder).rglob("*") if path.is_file())
            return [path.relative_to(root).as_posix() for path in files]
        with self.errors(f"cannot list {self.name(folder)}", "a readable bucket"):
            # "0" follows "/" in ASCII.
            keys = wait(self._open().list(ts.KvStore.KeyRange(f"{folder}/", f"{folder}0")))
        return sorted(key.decode() for key in keys)

    def empty(self) -> bool:
        """Whether the URL holds no file but a writer's lock; UserError if it is a local file."""
        if not self.local:
            with self.errors(f"cannot list {self.url}", "a readable bucket"):
                return not wait(self._open().list())
        root = Path(self.url)
        if root.exists() and not root.is_dir():
            raise UserError(f"{self.url} is a file; expected a directory for a cache")
        return not root.exists() or set(os.listdir(root)) <= {OWNER}

    def lock(self, name: str = OWNER) -> contextlib.AbstractContextManager[object]:
        """Keep other writers away while open; a bucket has no such lock.

        Raises:
            UserError: another process, which is named, writes there.
        """
        return FolderLock(self.url, name) if self.local else contextlib.nullcontext()

    def sha256(self, key: str) -> str | None:
        """SHA-256 of a file's bytes, or None where there is none."""
        if not self.local:
            data = self.read(key)
            return None if data is None else sha256_bytes(data)
        if not self._path(key).is_file():
            return None
        with self.errors(f"cannot read {self.name(key)}", "a readable file"):
            return sha256_file(self._path(key))

    def size(self, key: str) -> int | None:
        """Bytes of a local file, 0 where there is none; None in a bucket and of a device."""
        if not self.local:
            return None
        try:
            found = self._path(key).stat()
        except OSError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def digests(self, keys: Iterable[str]) -> Iterator[str | None]:
        """:meth:`sha256` of each file, several at once."""
        with ThreadPoolExecutor(DIGEST_THREADS) as pool:
            yield from pool.map(self.sha256, keys)

    def create_array(
        self, key: str, metadata: dict[str, Any], *, shared: bool = False
    ) -> ts.TensorStore:
        """An array with exactly this zarr3 metadata; shards that are stored already stay.

        A ``shared`` array is created by whichever writer comes first and opened by the others.
        """
        self._refuse_links(f"{key}/zarr.json")
        if not shared:
            self.delete(f"{key}/zarr.json")
        with self.errors(f"cannot create {self.name(key)}", "a writable place with free space"):
            return wait(ts.open(self._array(key, metadata), create=True, open=shared))

    def open_array(self, key: str, metadata: dict[str, Any] | None = None) -> ts.TensorStore:
        """A stored array; raises UserError, also where its metadata is not ``metadata``."""
        with self.errors(f"cannot open {self.name(key)}", "a zarr3 array"):
            return wait(ts.open(self._array(key, metadata), open=True))

    @contextlib.contextmanager
    def errors(self, what: str, expected: str) -> Iterator[None]:
        """Turn a storage error into the sentence ``what: why; expected ...``."""
        try:
            yield
        except (ValueError, OSError, RuntimeError, OverflowError) as error:
            raise UserError(f"{what}: {reason(error)}; expected {expected}") from error

    def _array(self, key: str, metadata: dict[str, Any] | None) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "driver": "zarr3",
            "kvstore": self.spec(key + "/"),
            # Otherwise a lost chunk reads as zeros, and a chunk of zeros is not stored.
            "fill_missing_data_reads": False,
            "store_data_equal_to_fill_value": True,
        }
        return spec if metadata is None else spec | {"metadata": metadata}

    def _path(self, key: str) -> Path:
        return Path(self.url) / key

    def _refuse_links(self, key: str) -> None:
        """Raise UserError where a local file, or a folder on the way to it, is a link."""
        path = Path(self.url)
        for part in key.split("/") if self.local else ():
            path /= part
            if path.is_symlink():
                raise link_error(path)

    def _open(self) -> ts.KvStore:
        if self._kv is None:
            with self.errors(f"cannot open {self.url}", "a directory or a bucket"):
                self._kv = wait(ts.KvStore.open(self.spec("")))
        return self._kv


def array_metadata(dtype: str, rows: int, width: int, chunk: int, shard: int) -> dict[str, Any]:
    """zarr3 metadata: shards of ``shard`` rows, of chunks of ``chunk`` rows, each with crc32c.

    ``width`` 0 makes an array of one number a row.
    """

    def part(name: str, **configuration: Any) -> dict[str, Any]:
        return {"name": name, "configuration": configuration}

    tail = [width] if width else []
    codecs = [part("bytes", endian="little"), {"name": "crc32c"}]
    sharding = {"codecs": codecs, "index_codecs": codecs, "index_location": "end"}
    return {
        "shape": [rows, *tail],
        "data_type": dtype,
        "fill_value": 0 if dtype.startswith("int") else 0.0,
        "chunk_grid": part("regular", chunk_shape=[shard, *tail]),
        "chunk_key_encoding": part("default", separator="/"),
        "codecs": [part("sharding_indexed", chunk_shape=[chunk, *tail], **sharding)],
    }


def resize(array: ts.TensorStore, rows: int) -> ts.TensorStore:
    """The array with its stored number of rows changed; no shard is touched."""
    if array.shape[0] == rows:
        return array
    shape = [rows, *[None] * (array.ndim - 1)]
    return array.resize(exclusive_max=shape, resize_metadata_only=True).result()


def write_all(writes: Iterable[tuple[ts.TensorStore, int, np.ndarray]]) -> None:
    """Write ``(array, first row, rows)`` each, all at once, and wait for all.

    The rows must not change until this returns.
    """
    started = [
        array[start : start + len(rows)].write(rows, can_reference_source_data_indefinitely=True)
        for array, start, rows in writes
    ]
    for future in started:
        future.result()


def reason(error: Exception) -> str:
    """What a storage error says, without TensorStore's dump of the whole spec."""
    text = str(error).split(" [")[0].split("\n")[0]
    code = str(error).rpartition("os_error_code='")[2].split("'")[0]
    return _OS_ERRORS.get(code, text)


def _base_spec(url: str) -> tuple[bool, dict[str, Any]]:
    scheme, separator, rest = url.partition("://")
    if not separator:
        require_utf8(url)
        return True, {"driver": "file", "path": os.path.join(os.path.abspath(url), "")}
    bucket, _, prefix = rest.partition("/")
    if scheme not in BUCKETS or not bucket:
        raise UserError(f"{url} is no place for a cache; expected a directory, gs:// or s3:// URL")
    driver = BUCKETS[scheme]
    spec = {
        "driver": driver,
        "bucket": bucket,
        "path": prefix.rstrip("/") + "/" if prefix else "",
        "context": {f"{driver}_request_retries": RETRIES},
    }
    return False, spec | (_s3_server() if scheme == "s3" else {})


def _s3_server() -> dict[str, Any]:
    """The server, region and credentials of s3://, from the variables that Amazon's tools read.

    TensorStore itself reads neither the server nor the region there; it does read credentials,
    but complains of absent profiles even where the environment has them.
    """
    get = os.environ.get
    options = {
        "endpoint": get("AWS_ENDPOINT_URL_S3") or get("AWS_ENDPOINT_URL"),
        "aws_region": get("AWS_REGION") or get("AWS_DEFAULT_REGION"),
        "aws_credentials": get("AWS_ACCESS_KEY_ID") and {"type": "environment"},
    }
    return {key: value for key, value in options.items() if value}
