"""What Hypothesis does to a file: other values in its JSON, other bytes, fewer bytes."""

import copy
import json

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

few = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
"""The same examples in every run; ``max_examples`` is what to raise for a longer search."""
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**30, 2**62, 1e300, "", "16", "../../etc/passwd", "\ud800", [], {}, [1]]),
    st.floats(),
    st.text(max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
DEEP = st.sampled_from([b"[" * 200_000, b'{"a":' * 100_000, b"", b"null", b"9" * 5000])


def documents(value):
    """JSON texts that differ from ``value`` in one place: replaced, or missing."""
    return st.tuples(st.sampled_from(list(_places(value))), ODD, st.booleans()).map(
        lambda drawn: json.dumps(_changed(value, *drawn)).encode()
    )


def damaged(content):
    """Bytes that differ from ``content`` in up to four places and may be cut."""
    place = st.integers(0, len(content) - 1)
    changes = st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=4)
    return st.tuples(changes, st.none() | place).map(lambda drawn: _damaged(content, *drawn))


def _places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from _places(item, (*path, key))


def _changed(value, path, other, missing):
    if not path:
        return other
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if missing:
        del inner[path[-1]]
    else:
        inner[path[-1]] = other
    return value


def _damaged(content, changes, end):
    found = bytearray(content)
    for place, byte in changes:
        found[place] = byte
    return bytes(found[:end])
