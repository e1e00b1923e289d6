"""What Hypothesis does to a file: other values, other types, other bytes, fewer bytes.

VASAE_FUZZ=N tries N random contents of each file in place of EXAMPLES that are always the same.
"""

import copy
import io
import json
import os
import signal
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from vasae_jax.utils.errors import UserError

EXAMPLES = 20
MEMORY = 2**29
"""Bytes that a process may grow by while it reads a small file."""
SECONDS = 60
"""After which a read counts as one that never ends."""
PEAK = Path("/proc/self/clear_refs")
few = settings(
    max_examples=int(os.environ.get("VASAE_FUZZ", EXAMPLES)),
    derandomize="VASAE_FUZZ" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # each has one or two changes: nothing to shrink
    report_multiple_bugs=False,
)
"""The same examples in every run, unless VASAE_FUZZ says how many."""
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([-1, 0, 1, 7, 2**31, 2**62, 2**63, 10**30, 1e300, 0.5, -0.0]),
    st.sampled_from(["", "16", "nan", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "\n"]),
    st.sampled_from([[], {}, [1], [[]], [{}], [None], {"": None}, {"kind": 1}, ["a", 1]]),
    st.floats(),
    st.text(max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
DEEP = st.sampled_from(
    [
        *(b"[" * 200_000, b'{"a":' * 100_000, b"[" * 500 + b"]" * 500, b'{"a":{"a":1,"a":2}}'),
        *(
            b"",
            b"null",
            b"9" * 5000,
            b"1e999",
            b"NaN",
            b"-Infinity",
            b"\xff\xfe{}",
            b"\xef\xbb\xbf",
        ),
        *('{"a": 1}'.encode(code) for code in ("utf-16", "utf-32", "utf-8-sig")),
    ]
)
"""JSON that is none, or that Python's own reader takes for something else than others do."""
TYPES = ("f2", "f4", "f8", "c8", "i1", "i4", "i8", "u1", "u8", "?", "S3", "U2", "M8[s]", "V2")
SHAPES = ((), (0,), (1,), (3,), (0, 3), (3, 0), (1, 1), (2, 3), (2, 3, 4), (1,) * 12)


def attack(file, contents, read, found=()):
    """Read with each of ``contents`` in the place of ``file``, then put it back and read it.

    ``read`` may raise UserErrors alone, in SECONDS and within MEMORY. ``found``: contents that once
    were read in another way, and are tried first.
    """
    content = file.read_bytes()

    def try_one(changed):
        file.unlink()  # an earlier read may have it mapped
        file.write_bytes(changed)
        _within_bounds(read)

    @few
    @given(contents)
    def attempt(changed):
        try_one(changed)

    try:
        for changed in found:
            try_one(changed)
        with mock.patch("os.fsync"):  # a read may write something, which need not be durable
            attempt()
    finally:
        file.unlink(missing_ok=True)
        file.write_bytes(content)
    read()


def refuses(attempt):
    """The one sentence of the UserError that ``attempt`` raises, or None where it raises none."""
    try:
        attempt()
    except UserError as error:
        assert str(error).strip(), "a refusal says why"
        return str(error)
    return None


def _within_bounds(read):
    before = _memory("VmRSS") if _forget_peak() else None
    signal.signal(signal.SIGALRM, _never_ends)
    signal.alarm(SECONDS)
    try:
        refuses(read)
    finally:
        signal.alarm(0)
    if before is not None:
        grown = _memory("VmHWM") - before
        assert grown < MEMORY, f"{grown / 2**20:.0f} MiB for a small file"


def _never_ends(*_):
    raise AssertionError(f"no end after {SECONDS} s")


def _forget_peak():
    """Let the system measure the largest memory from now on; False where it cannot."""
    try:
        PEAK.write_text("5", encoding="utf-8")
    except OSError:
        return False
    return True


def _memory(name):
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def documents(value):
    """JSON texts that differ from ``value`` in one or two places: replaced, missing or more."""
    change = st.tuples(st.sampled_from(list(_places(value))), ODD, st.sampled_from("rrrda"))
    return st.lists(change, min_size=1, max_size=2).map(lambda drawn: _encoded(value, drawn))


def replaced(file, path, other, how="r"):
    """The JSON of a file with the value at ``path`` replaced (r), deleted (d) or added to (a)."""
    return _encoded(json.loads(file.read_bytes()), [(path, other, how)])


def documents_of(file):
    """Changes to the values and to the bytes of a JSON file."""
    content = file.read_bytes()
    return documents(json.loads(content)) | damaged(content) | DEEP


def lines_of(file):
    """Changes to one line of a file of JSON lines, and to its bytes."""
    content = file.read_bytes()
    lines = content.splitlines()

    def changed(place):
        return (documents(json.loads(lines[place])) | DEEP).map(
            lambda line: b"\n".join([*lines[:place], line, *lines[place + 1 :]]) + b"\n"
        )

    return st.integers(0, min(len(lines), 5) - 1).flatmap(changed) | damaged(content)


def damaged(content):
    """Bytes that differ from ``content`` in up to four places and may be cut or repeated."""
    place = st.integers(0, len(content) - 1)
    changes = st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)
    return st.tuples(changes, st.none() | place, st.none() | place).map(
        lambda drawn: _damaged(content, *drawn)
    )


def arrays(sound):
    """Arrays by name that differ from ``sound`` in one: its type, its shape, its numbers, or it
    is missing, or one more."""
    name = st.sampled_from([*sound, "more"])
    kinds = st.sampled_from(
        [*TYPES, "gone", "turned", "flat", "nan", "inf", "-1", "big", "swapped"]
    )
    return st.tuples(name, kinds, st.sampled_from(SHAPES), st.booleans()).map(
        lambda drawn: _other_array(sound, *drawn)
    )


def npz(values):
    """The bytes of an ``.npz`` of these arrays."""
    out = io.BytesIO()
    np.savez(out, **values)
    return out.getvalue()


def npy(value):
    """The bytes of an ``.npy``."""
    out = io.BytesIO()
    np.save(out, value)
    return out.getvalue()


def safetensors_of(file):
    """Changes to the header of a safetensors file, whose length is put right, and to its bytes."""
    content = file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, numbers = json.loads(content[8 : 8 + size]), content[8 + size :]
    types = ["F8_E4M3", "F8_E5M2", "F4", "I8", "BOOL", "C64", "BF16", "F64", "U16", "X", ""]

    def with_type(drawn):
        name, kind = drawn
        return _encoded(header, [((name, "dtype"), kind, "r")])

    names = st.sampled_from([name for name in header if name != "__metadata__"])
    headers = documents(header) | DEEP | st.tuples(names, st.sampled_from(types)).map(with_type)
    whole = headers.map(lambda head: len(head).to_bytes(8, "little") + head + numbers)
    return whole | damaged(content[: 8 + size]).map(lambda head: head + numbers)


def _places(value, path=()):
    yield path
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from _places(item, (*path, key))


def _encoded(value, changes):
    value = copy.deepcopy(value)
    for path, other, how in changes:
        value = _changed(value, path, other, how)
    return json.dumps(value).encode()


def _changed(value, path, other, how):
    """``value`` with that at ``path`` replaced (r), deleted (d) or with ``other`` added (a)."""
    if not path and how != "a":
        return other
    inner = value
    try:
        for key in path[:-1] if how != "a" else path:
            inner = inner[key]
        if how == "a":
            inner.append(other) if isinstance(inner, list) else inner.update(more=other)
        elif how == "d":
            del inner[path[-1]]
        else:
            inner[path[-1]] = other
    except (KeyError, IndexError, TypeError, AttributeError):
        pass  # an earlier change has taken the place away
    return value


def _damaged(content, changes, end, repeated):
    found = bytearray(content)
    for place, byte in changes:
        found[place] = byte
    return bytes(found[:end]) + (b"" if repeated is None else content[repeated:])


def _other_array(sound, name, kind, shape, keep_shape):
    values = dict(sound)
    old = np.asarray(values.get(name, np.ones((2, 3), np.float32)))
    if kind == "gone":
        values.pop(name, None)
        return values
    changed = {
        "turned": lambda: old.T,
        "flat": lambda: old.reshape(-1),
        "swapped": lambda: old[::-1],
        "nan": lambda: _filled(old, np.nan),
        "inf": lambda: _filled(old, np.inf),
        "-1": lambda: _filled(old, -1),
        "big": lambda: _filled(old, 2**31 - 1),
    }
    make = changed.get(kind, lambda: np.zeros(old.shape if keep_shape else shape, kind))
    values[name] = make() if old.ndim or kind not in ("swapped",) else old
    return values


def _filled(old, number):
    with np.errstate(all="ignore"):
        return np.full(old.shape, number).astype(old.dtype)
