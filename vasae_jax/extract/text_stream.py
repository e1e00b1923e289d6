"""Records that the ``datasets`` package streams, asked for again when the network fails."""

import itertools
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

from vasae_jax.extract.text_files import Record, import_extra
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.streams import note

DELAYS = (1, 2, 4, 8, 16, 32)
"""Seconds before each new try at a record that the network did not give."""
_CLIENTS = ("aiohttp", "fsspec", "httpcore", "httpx", "huggingface_hub", "requests", "urllib3")
"""Packages whose errors are the network's."""


def dataset_records(source: str, split: str) -> Iterator[Record]:
    """The records of ``hf:NAME``, ``hf:USER/NAME`` or ``hf:USER/NAME/CONFIG`` in their order.

    A connection that breaks is opened again, and the stream goes on with the record after the
    last: the order of a stream is fixed.

    Raises:
        UserError: at once if there is no such dataset or split; while iterating, if a record
            cannot be read, which it names.
    """
    datasets = import_extra("datasets", source)
    name, config = source.removeprefix("hf:"), None
    if name.count("/") > 1 and not Path(name).is_dir():
        user, repository, config = name.split("/", 2)
        name = f"{user}/{repository}"

    def load() -> Any:
        return datasets.load_dataset(name, config, split=split, streaming=True)

    try:
        records = load()
    except Exception as error:  # network, name, permission and format errors share no base
        raise UserError(
            f"dataset {source} (split {split}) cannot be opened: {first_line(error)}; "
            "expected hf:NAME, hf:USER/NAME or hf:USER/NAME/CONFIG"
        ) from error
    return _numbered(source, records, load)


def _numbered(source: str, records: Any, load: Callable[[], Any]) -> Iterator[Record]:
    stream, number, failures = iter(records), 0, 0
    while True:
        try:
            fields = next(stream)
        except StopIteration:
            return
        except Exception as error:  # as above, and errors of every format of file
            of_network = _of_network(error)
            if failures == len(DELAYS) or not of_network:
                expected = "the network to answer" if of_network else "a whole dataset"
                raise UserError(
                    f"dataset {source} cannot be read at record {number} "
                    f"({type(error).__name__}: {first_line(error)}); expected {expected}"
                ) from error
            _wait(f"{source} record {number}", error, DELAYS[failures])
            failures += 1
            stream = _from(load, number)
            continue
        yield Record(f"{source} record {number}", fields)
        number, failures = number + 1, 0


def _from(load: Callable[[], Any], number: int) -> Iterator[Any]:
    """The records from ``number`` on; a failure to open the dataset comes with the first."""
    records = load()
    yield from (
        records.skip(number)
        if hasattr(records, "skip")
        else itertools.islice(records, number, None)
    )


def _wait(place: str, error: BaseException, seconds: float) -> None:
    note(
        f"{place} did not come ({type(error).__name__}: {first_line(error)}); trying again in "
        f"{seconds} s"
    )
    time.sleep(seconds)


def _of_network(error: BaseException | None) -> bool:
    """Whether an error, or one that it was raised from, is one that may pass."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status in (408, 429) or status >= 500
        if isinstance(error, ConnectionError | TimeoutError | HTTPException):
            return True
        if type(error).__module__.startswith(_CLIENTS) and not isinstance(error, FileNotFoundError):
            return True
        error = error.__cause__ or error.__context__
    return False
