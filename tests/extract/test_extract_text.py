"""Reading documents: every kind of source, and one sentence for every kind of mistake."""

import gzip
import json
import sys
from pydoc_data.topics import topics

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vasae_jax.extract import read_documents
from vasae_jax.extract.text import ENGLISH, PIECE_CHARACTERS, pieces
from vasae_jax.extract.windows import document_fraction
from vasae_jax.quickstart import HELDOUT_SHARE
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_bytes

RUN = 20
"""Words in a row that would count as a repeat."""


def test_a_text_file_is_cut_at_blank_lines(tmp_path):
    paragraphs = [f"paragraph {i} " + "x" * 700 for i in range(7)]
    file = tmp_path / "book.txt"
    file.write_text("\n\n".join(paragraphs), encoding="utf-8")
    found = list(read_documents(str(file)))
    # Three paragraphs of about 710 characters are the first to reach 2000.
    assert found == ["\n\n".join(paragraphs[i : i + 3]) for i in (0, 3, 6)]
    assert all(len(piece) >= PIECE_CHARACTERS for piece in found[:-1])


def test_pieces_keep_short_and_drop_blank_text():
    assert list(pieces("short")) == ["short"]
    assert list(pieces(" \n\n \n")) == []
    assert list(pieces("ab\n \t\n\n  cd\n\nef", least=2)) == ["ab", "cd", "ef"]


def test_a_directory_is_read_in_name_order(tmp_path):
    (tmp_path / "b.txt").write_text("whole\n\nfile", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": "two"}\n', encoding="utf-8")
    pq.write_table(pa.table({"text": ["three", "four"]}), tmp_path / "c.parquet")
    (tmp_path / "ignored.csv").write_text("no", encoding="utf-8")
    found = list(read_documents(str(tmp_path)))
    assert found == ["one", "two", "whole\n\nfile", "three", "four"]


def test_another_field_can_be_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "one"}\n', encoding="utf-8")
    pq.write_table(pa.table({"body": ["two"]}), tmp_path / "b.parquet")
    assert list(read_documents(str(tmp_path), field="body")) == ["one", "two"]


def test_pydoc_topics_are_all_there_by_name():
    assert list(read_documents("pydoc-topics")) == [topics[name] for name in sorted(topics)]


def test_the_text_that_ships_is_pinned():
    documents = list(read_documents("english"))
    assert len(documents) == 81
    digest = sha256_bytes("\0".join(documents).encode())
    assert digest == "c9e235f4aff6437ab00bae1f3301ee8448c75902689f0c1160d4e9220cb6045d"


@pytest.mark.fault
def test_the_text_that_ships_is_split_without_repeats():
    """Of every kind some documents are held out, and none is half in both."""
    with gzip.open(ENGLISH, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    runs, kinds = {True: set(), False: set()}, {True: [], False: []}
    for record in records:
        heldout = document_fraction(record["text"].encode()) < HELDOUT_SHARE
        words = record["text"].split()
        assert 450 <= len(words) <= 4000
        runs[heldout] |= {tuple(words[i : i + RUN]) for i in range(len(words) - RUN + 1)}
        kinds[heldout].append(record["kind"])
    assert not runs[True] & runs[False]
    assert len(kinds[True]) == 14
    assert set(kinds[True]) == set(kinds[False]) == {"novel", "geography", "speech"}


def test_a_dataset_is_streamed(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="the data extra is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    assert list(read_documents(f"hf:{data}")) == ["one", "two"]
    with pytest.raises(UserError, match=r"split nowhere.*cannot be opened"):
        read_documents(f"hf:{data}", split="nowhere")


@pytest.mark.parametrize("package, source", [("datasets", "hf:wikitext"), ("pyarrow", "a.parquet")])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, package, source):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=rf"needs the package {package}.*vasae-jax\[data\]"):
        list(read_documents(source))


@pytest.mark.fault
@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b'{"text": "x"}\n{oops\n', r"line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", r"line 1 holds a list; expected one object"),
        ("a.jsonl", b'{"body": "x"}\n', r"missing.*fields: body; see --text-field"),
        ("a.jsonl", b'{"text": 3}\n', r"is a int; expected text"),
        ("a.txt", b"caf\xe9", r"not UTF-8 \(byte 3\)"),
        ("a.parquet", b"not parquet", r"cannot be read as parquet from row 0"),
        ("a.csv", b"x", r"ends in '.csv'; expected a .txt"),
    ],
)
def test_unreadable_text_is_named(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        list(read_documents(str(file)))
    assert str(file) in str(caught.value)


def test_a_missing_column_lists_those_there_are(tmp_path):
    pq.write_table(pa.table({"body": ["x"], "id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"no column 'text'; expected one of body, id"):
        list(read_documents(str(tmp_path / "a.parquet")))


@pytest.mark.fault
def test_missing_and_empty_places(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.txt was not found"):
        read_documents(str(tmp_path / "nowhere.txt"))
    with pytest.raises(UserError, match=r"holds no .txt, .md, .jsonl or .parquet"):
        read_documents(str(tmp_path))


def test_a_long_file_of_records_is_not_held(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(
        "".join(json.dumps({"text": str(i)}) + "\n" for i in range(1000)) + "broken\n",
        encoding="utf-8",
    )
    documents = read_documents(str(file))
    assert [next(documents) for _ in range(1000)][-1] == "999"  # the broken line is not reached yet
