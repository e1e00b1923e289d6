"""JSON that anybody may have written: what is read, and what is refused in one sentence."""

import json

import pytest

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.read_json import (
    MAX_DEPTH,
    parse_json,
    read_json,
    read_json_lines,
    read_json_object,
)

pytestmark = pytest.mark.fault
DEEP = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        *((b"", "Expecting value"), (b"{", "double quotes"), (b"1 2", "Extra data")),
        *((b'{"a": NaN}', "NaN"), (b"[-Infinity]", "-Infinity"), (b"1e999", "beyond all floats")),
        *((b"[" + DEEP + b"]", "nests"), (b"[" * 200_000, "nests"), (b'{"a":' * 200_000, "nests")),
        *((b'{"a": {"k": 1, "b": 2, "k": 3}}', "'k' twice"), (b"9" * 5000, "5000 digits")),
        *(('{"a": 1}'.encode("utf-16"), "not UTF-8"), (b'"\xff"', "not UTF-8 .byte 1")),
        (b'["\\ud800"]', "half a surrogate pair"),
    ],
)
def test_what_is_no_json_is_refused(data, reason):
    with pytest.raises(UserError, match=f"^a.json .*{reason}.*; expected a record$"):
        parse_json(data, "a.json", "a record")


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'\xef\xbb\xbf{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}),
        (b"1000000000000000019884624838656", 10**30 + 19884624838656),
        *((DEEP, json.loads(DEEP)), (b'"\\ud83d\\ude00"', "\U0001f600"), (b"1e-999", 0.0)),
    ],
)
def test_json_is_read(data, value):
    assert parse_json(data, "a.json", "a record") == value


def test_what_is_asked_for_is_read_too():
    assert str(parse_json(b"[NaN, Infinity]", "a", "b", nan=True)) == "[nan, inf]"
    assert parse_json(b'"\\udc80"', "a", "b", half_pairs=True) == "\udc80"


def test_a_file_is_read_only_if_it_is_no_larger_than_it_should_be(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"a": "x" * 100}), encoding="utf-8")
    assert read_json(file, "a record") == {"a": "x" * 100}
    with pytest.raises(UserError, match=r"a\.json has 109 bytes; expected a record, of 64 at most"):
        read_json(file, "a record", limit=64)
    for place in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(UserError, match="is not there; expected a record"):
            read_json(place, "a record")


def test_another_value_is_no_object(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match="holds a list; expected a record"):
        read_json_object(file, "a record")


def test_lines_that_are_no_objects_are_left_out(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n[2]\n{"a": NaN}\n\xff\n{"a": 3}\n{"a": ')
    assert list(read_json_lines(file, "records")) == [{"a": 1}, {"a": 3}]
    assert list(read_json_lines(tmp_path / "none", "records")) == []
