"""Texts of every kind, given what Hypothesis made of them: UserErrors alone come out."""

import contextlib
import datetime
import decimal
import gzip
import io
import json

import pytest
from hypothesis import strategies as st
from mutations import attack, damaged, lines_of

from vasae_jax.extract import read_documents
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault
TEXTS = ["the first text", "a second\n\nin two parts", "träge Ärzte", ""] * 2


def read(path):
    """Every document is text that can be encoded, or token ids."""
    for document in read_documents(str(path)):
        if isinstance(document, str):
            document.encode()


def json_lines(texts):
    lines = (json.dumps({"text": text, "meta": {"n": 1}}) for text in texts)
    return "".join(line + "\n" for line in lines).encode()


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.txt.gz", "a.txt.zst"])
def test_plain_text(tmp_path, name):
    file, sound = tmp_path / name, "\n\n".join(TEXTS).encode()
    file.write_bytes(packed(name, sound))
    inner = (st.binary(max_size=60) | damaged(sound)).map(lambda data: packed(name, data))
    attack(file, inner | damaged(file.read_bytes()), lambda: read(file))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_json_lines(tmp_path, name):
    plain = tmp_path / "plain"
    plain.write_bytes(json_lines(TEXTS))
    file = tmp_path / name
    file.write_bytes(packed(name, json_lines(TEXTS)))
    inner = lines_of(plain).map(lambda data: packed(name, data))
    attack(file, inner | damaged(file.read_bytes()), lambda: read(file))


def packed(name, data):
    if name.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    if name.endswith(".zst"):
        arrow = pytest.importorskip("pyarrow")
        out = io.BytesIO()
        with arrow.CompressedOutputStream(arrow.PythonFile(out), "zstd") as stream:
            stream.write(data)
            stream.flush()
            return bytes(out.getbuffer()) if stream.closed else _closed(stream, out)
    return data


def _closed(stream, out):
    data = io.BytesIO()
    out.close = lambda: data.write(out.getvalue())  # pyarrow closes what it writes to
    stream.close()
    return data.getvalue()


COLUMNS = {
    "text": [["a b"] * 3, ["a", None, "b"], ["", "", ""]],
    "ids": [[[1, 2], [3], []], [[1, None], [2], [3]], [[-1], [2**40], [0]]],
    "numbers": [[1, 2, 3], [1.5, float("nan"), None]],
    "bytes": [[b"a", b"\xff", b""]],
    "others": [[{"a": 1}, {"a": 2}, None], [True, False, None], [None, None, None]],
    "dates": [[datetime.date(1, 1, 1)] * 3, [decimal.Decimal("1.5")] * 3],
    "nested": [[[["a"]], [["b"], []], []], [[[1]], [[2]], [[3]]]],
}


def parquet(values, name="text", **options):
    arrow, files = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    out = io.BytesIO()
    files.write_table(arrow.table({name: arrow.array(values)}), out, **options)
    return out.getvalue()


def test_parquet(tmp_path):
    file = tmp_path / "a.parquet"
    file.write_bytes(parquet(["a b", "c d"] * 20))
    columns = st.sampled_from([column for kind in COLUMNS.values() for column in kind])
    codecs = st.sampled_from(["snappy", "gzip", "zstd", "none"])
    changed = st.builds(
        lambda values, codec, rows: parquet(values, compression=codec, row_group_size=rows),
        columns,
        codecs,
        st.integers(1, 3),
    )
    attack(file, changed | damaged(file.read_bytes()), lambda: read(file))


def test_a_key_that_is_there_twice_is_refused(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one", "text": "two"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="'text' twice"):
        list(read_documents(str(file)))


def test_numbers_beside_a_text_may_be_anything(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "one", "score": NaN}\n' * 2, encoding="utf-8")
    with contextlib.closing(read_documents(str(file))) as documents:
        assert list(documents) == ["one", "one"]
