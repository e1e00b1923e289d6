"""Reading JSON that anybody may have written: bounded and strict, with one sentence if refused.

Python's own reader takes more than JSON: NaN, the last of two equal keys, UTF-16, half a surrogate
pair, numbers beyond every float, any depth and any size. Each of them means something else to
another reader, or fails later and elsewhere.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vasae_jax.utils.errors import UserError, first_line

MAX_BYTES = 2**24
"""Larger than settings and records are; values in memory take up to 25 times their text."""
LARGE = 2**28
"""The limit of files that grow with what they describe, such as the list of a cache's shards."""
MAX_DEPTH = 64
"""Deeper than any settings nest; every reader that walks through values stops far later."""
MAX_DIGITS = 300
"""Of a whole number: a longer one is no float. Tokenizers state lengths of 10^30."""
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(
    data: bytes, where: object, expected: str, *, nan: bool = False, half_pairs: bool = False
) -> Any:
    """The value of a JSON text in UTF-8, with or without a byte order mark.

    Args:
        data: the text.
        where: its file, for messages.
        expected: what it should be, for messages.
        nan: whether NaN and Infinity are read, which JSON does not have.
        half_pairs: whether strings may have half a surrogate pair, as token strings may.

    Raises:
        UserError: it is no JSON, has a key twice, a number beyond all floats or half a surrogate
            pair, or nests deeper than MAX_DEPTH.
    """
    try:
        text = data.decode("utf-8-sig")
        value = (_WITH_NAN if nan else _STRICT).decode(text)
        if not half_pairs and _HALF_PAIR.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        _check_depth(value)
    except UnicodeEncodeError as error:
        raise UserError(f"{where} has half a surrogate pair; expected {expected}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 (byte {error.start}); expected {expected}"
        ) from error
    except RecursionError as error:
        raise UserError(
            f"{where} is not JSON that can be read (it nests deeper than {MAX_DEPTH}); expected "
            f"{expected}"
        ) from error
    except ValueError as error:
        why = first_line(error)
        raise UserError(f"{where} is not JSON ({why}); expected {expected}") from error
    return value


def parse_json_object(
    data: bytes, where: object, expected: str, *, half_pairs: bool = False
) -> dict[str, Any]:
    """The JSON object in ``data``; UserError for another value, and as :func:`parse_json`."""
    value = parse_json(data, where, expected, half_pairs=half_pairs)
    if not isinstance(value, dict):
        raise UserError(f"{where} holds a {type(value).__name__}; expected {expected}")
    return value


def read_json(path: Path, expected: str, *, limit: int = MAX_BYTES) -> Any:
    """The JSON value in a file.

    Raises:
        UserError: the file is not there, is larger than ``limit`` (bytes), or what
            :func:`parse_json` refuses; it says what was ``expected``.
    """
    return parse_json(read_bounded(path, expected, limit), path, expected)


def read_json_object(
    path: Path, expected: str, *, limit: int = MAX_BYTES, half_pairs: bool = False
) -> dict[str, Any]:
    """The JSON object in a file; raises UserError as :func:`read_json`, and for another value."""
    data = read_bounded(path, expected, limit)
    return parse_json_object(data, path, expected, half_pairs=half_pairs)


def read_json_lines(path: Path, expected: str) -> Iterator[dict[str, Any]]:
    """The JSON objects that a file has one a line; none where it is not there.

    Lines that hold something else are left out, such as one that a killed process left half
    written.

    Raises:
        UserError: the file cannot be read, or is larger than LARGE.
    """
    if not path.exists():
        return
    for line in read_bounded(path, expected, LARGE).split(b"\n"):
        try:
            yield parse_json_object(line, path, expected)
        except UserError:
            continue


def read_bounded(path: Path, expected: str, limit: int) -> bytes:
    """The content of a file of at most ``limit`` bytes; raises UserError as :func:`read_json`."""
    if not path.is_file():
        raise UserError(f"{path} is not there; expected {expected}")
    try:
        size = path.stat().st_size
        if size <= limit:
            return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or error}); expected {expected}"
        ) from error
    raise UserError(f"{path} has {size:,} bytes; expected {expected}, of {limit:,} at most")


def _check_depth(value: Any) -> None:
    """Raise RecursionError for a value that nests deeper than MAX_DEPTH."""
    level, depth = [value] if isinstance(value, dict | list) else [], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise RecursionError
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [inner for part in parts for inner in part if isinstance(inner, dict | list)]


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it has {next(key for key in keys if keys.count(key) > 1)!r:.60} twice")
    return value


def _no_constant(word: str) -> float:
    raise ValueError(f"{word} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), -float("inf")):
        raise ValueError(f"{text[:40]} is beyond all floats")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"it has a number of {len(text)} digits")
    return int(text)


_STRICT = json.JSONDecoder(
    object_pairs_hook=_no_key_twice,
    parse_constant=_no_constant,
    parse_float=_finite,
    parse_int=_whole,
)
_WITH_NAN = json.JSONDecoder(object_pairs_hook=_no_key_twice, parse_int=_whole)
