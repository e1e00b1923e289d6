"""Waiting for storage: not for ever, and with a word where a bucket's requests are made again."""

import sys
import threading
import time
from typing import Any, Protocol, TypeVar

import tensorstore as ts

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
PATIENCE = 300.0
"""Seconds in which storage must answer what is read from it: a read that hangs must end."""
RETRIES = {"max_retries": 12, "initial_delay": "1s", "max_delay": "32s"}
"""How TensorStore makes a bucket's request again that failed for a moment. The delays sum to 255 s,
with up to a second each on top: within PATIENCE, so that the error says what the bucket did."""
DRIVERS = ("gcs", "s3")
_LOOK = 1.0  # seconds of a wait after which the number of retries is looked at
_lock, _said = threading.Lock(), 0


class Promise(Protocol[T_co]):
    """A future of TensorStore's."""

    def result(self, timeout: float | None = None) -> T_co:
        """What it gives, waited for so many seconds."""


def retrying(driver: str) -> dict[str, Any]:
    """The part of a bucket's key-value spec that has RETRIES."""
    return {"context": {f"{driver}_request_retries": RETRIES}}


def settled(future: Promise[T]) -> T:
    """What a read gives, waited for PATIENCE seconds at most; its error, or TimeoutError."""
    end = time.monotonic() + PATIENCE
    while True:
        left = end - time.monotonic()
        try:
            return future.result(timeout=max(0.0, min(_LOOK, left)))
        except TimeoutError as error:
            if left <= _LOOK:
                raise TimeoutError(f"no answer for {PATIENCE:g} s") from error
        finally:
            _say_retries()


def _say_retries() -> None:
    """Say that requests were made again, if any were since this was last said."""
    global _said
    with _lock:
        fresh, _said = (now := _retries()) - _said, now
    if fresh > 0:
        print(
            f"the bucket failed for a moment: {fresh} request(s) made again",
            file=sys.stderr,
            flush=True,
        )


def _retries() -> int:
    """Requests to buckets that TensorStore has made again in this process."""
    names = (f"/tensorstore/kvstore/{driver}/retries" for driver in DRIVERS)
    found = (metric for name in names for metric in ts.experimental_collect_matching_metrics(name))
    return sum(value["value"] for metric in found for value in metric["values"])
