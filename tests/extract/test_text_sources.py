"""Which documents a folder or a file of records has, and streams that break while they are read."""

import gzip
import itertools
import json
import os
import types

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lm_fixtures import gpt2_config, random_model, save_model

from vasae_jax.cache import Cache
from vasae_jax.extract import Settings, extract, read_documents, text_stream
from vasae_jax.extract.text import FEW
from vasae_jax.extract.windows import make_windows
from vasae_jax.lm import load_lm
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault


def lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def zstd(data):
    return pa.compress(data, codec="zstd", asbytes=True)


def read(path, **options):
    return list(read_documents(str(path), **options))


def until_it_breaks(path):
    """The documents before the error, and the error."""
    documents = []
    with pytest.raises(UserError) as caught:
        documents.extend(read_documents(str(path)))  # extend keeps what came
    return documents, str(caught.value)


def test_a_folder_is_read_with_all_that_is_in_it(tmp_path, capsys):
    files = {
        "a.txt": b"a",
        "b/c/d.TXT": b"d",
        "b/e.md": b"e",
        "f.jsonl.gz": gzip.compress(lines(["f", "g"])),
        "h.jsonl.zst": zstd(lines(["h", "i"])),
        "j.txt.gz": gzip.compress(b"j"),
        ".hidden.txt": b"no",
        ".git/k.txt": b"no",
        "l.pdf": b"no",
        "m.tar.gz": b"no",
        "n.PDF": b"no",
        "LICENSE": b"no",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    assert read(tmp_path) == ["a", "d", "e", "f", "g", "h", "i", "j"]
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    for part in ("6 files", "2 .pdf", "1 .tar.gz", "2 hidden", "1 without a suffix", "1 linked"):
        assert part in line


def test_a_folder_without_text_says_what_it_has(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"no")
    with pytest.raises(UserError, match=r"1 \.pdf"):
        read_documents(str(tmp_path))


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "a.parquet", "a.txt.gz"])
def test_a_mark_and_line_ends_are_the_same_in_every_reader(tmp_path, name):
    file, text = tmp_path / name, "\ufeffone\r\ntwo\rthree\n"
    if name == "a.parquet":
        pq.write_table(pa.table({"text": [text]}), file)
    elif name == "a.jsonl":
        file.write_bytes(b"\xef\xbb\xbf" + lines([text]).replace(b"\n", b"\r\n"))
    else:
        data = text.encode()
        file.write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read(file) == ["one\ntwo\nthree\n"]


def test_a_single_compressed_text_is_cut_as_a_plain_one(tmp_path):
    text = "\n\n".join(["x" * 1500] * 4).encode()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "b.md.zst").write_bytes(zstd(text))
    assert read(tmp_path / "a.txt") == read(tmp_path / "b.md.zst")
    assert len(read(tmp_path / "a.txt")) == 2


# Records without usable text.


@pytest.mark.parametrize("bad", ["null", '{"text": null}', '{"id": 3}', '{"text": "\\ud83d"}'])
def test_a_few_records_without_text_are_skipped_and_counted(tmp_path, capsys, bad):
    records = [json.dumps({"text": f"number {i}"}) for i in range(299)]
    records.insert(7, bad)
    (tmp_path / "a.jsonl").write_text("\n".join(records), encoding="utf-8")
    assert len(read(tmp_path / "a.jsonl")) == 299
    line = capsys.readouterr().err
    assert "skipped 1 of 300" in line and "line 8" in line and line.count("\n") == 1


def test_a_null_in_a_column_is_skipped(tmp_path):
    pq.write_table(pa.table({"text": ["a", None] + ["b"] * 198}), tmp_path / "a.parquet")
    assert len(read(tmp_path / "a.parquet")) == 199


def test_many_records_without_text_are_refused_at_the_end_with_the_first(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(["a"] * 98) + b'{"text": null}\n' * 2)
    documents, error = until_it_breaks(tmp_path / "a.jsonl")
    assert len(documents) == 98
    assert "2 of 100" in error and "line 99" in error


def test_a_stream_of_nulls_is_given_up_before_its_end(monkeypatch):
    endless = ({"text": None if i else "one"} for i in itertools.count())
    stream(monkeypatch, endless)
    documents, error = until_it_breaks("hf:made/up")
    assert documents == ["one"] and f"{FEW + 1} of {FEW + 2}" in error


def test_another_field_is_named_at_the_first_record(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(["a"] * 1000).replace(b"text", b"body"))
    with pytest.raises(UserError, match=r"line 1:.*body.*--text-field"):
        read(tmp_path / "a.jsonl")


def test_what_was_skipped_is_said_where_reading_stops_early(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": null}\n' + lines(["a"] * 500))
    documents = read_documents(str(tmp_path / "a.jsonl"))
    next(documents)
    documents.close()
    assert "skipped 1 of 2" in capsys.readouterr().err


# Files that break off.


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_a_cut_file_of_records_is_named_with_the_last_record(tmp_path, name):
    file = tmp_path / name
    data = lines([f"{i} {np.random.default_rng(i).bytes(40).hex()}" for i in range(4000)])
    packed = {"gz": gzip.compress, "zst": zstd}.get(name.rpartition(".")[2], bytes)(data)
    file.write_bytes(packed[: len(packed) // 2])
    documents, error = until_it_breaks(file)
    assert 1000 < len(documents) < 3000
    assert str(file) in error
    assert f"line {len(documents)}" in error or f"line {len(documents) + 1}" in error


def test_damage_in_a_compressed_file_is_named(tmp_path):
    data = bytearray(gzip.compress(lines([f"number {i * i}" for i in range(4000)])))
    data[len(data) // 2 : len(data) // 2 + 8] = b"\xff" * 8
    (tmp_path / "a.jsonl.gz").write_bytes(data)
    assert "a.jsonl.gz" in until_it_breaks(tmp_path / "a.jsonl.gz")[1]


@pytest.mark.parametrize("damage", ["cut", "page", "bytes"])
def test_a_damaged_parquet_file_is_named_with_a_row(tmp_path, damage):
    file = tmp_path / "a.parquet"
    texts = pa.array([f"number {i * i}".encode() for i in range(2000)])
    if damage == "bytes":  # a string that is not UTF-8
        texts = pa.concat_arrays([texts, pa.array([b"\xff\xfe"])])
        texts = pa.StringArray.from_buffers(len(texts), *texts.buffers()[1:])
    pq.write_table(pa.table({"text": texts.cast(pa.string(), safe=False)}), file)
    data = bytearray(file.read_bytes())
    if damage == "page":
        data[40:400] = b"\xff" * 360
    file.write_bytes(data[: len(data) // 2] if damage == "cut" else data)
    row = 1984 if damage == "bytes" else 0  # the first of the rows that are read together
    assert f"{file} cannot be read as parquet from row {row}" in until_it_breaks(file)[1]


def test_a_column_that_is_gone_in_a_later_file_is_named(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"body": ["b"]}), tmp_path / "b.parquet")
    documents, error = until_it_breaks(tmp_path)
    assert documents == ["a"] and "b.parquet" in error


@pytest.mark.hostile
def test_parquet_is_read_from_a_path_that_is_not_utf8(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "a.parquet")
    odd = (tmp_path / "a.parquet").rename(tmp_path / os.fsdecode(b"\xe9.parquet"))
    assert read(odd) == ["a", "b"]


# Datasets that are streamed.


def stream(monkeypatch, *streams):
    """``datasets`` that gives these iterables, one each time a dataset is opened; its opens."""
    opened = []

    class Records:
        def __init__(self, records):
            self.records = records

        def __iter__(self):
            return iter(self.records)

        def skip(self, count):
            return itertools.islice(iter(self.records), count, None)

    def load_dataset(*args, **options):
        opened.append(args)
        if isinstance(streams[len(opened) - 1], Exception):
            raise streams[len(opened) - 1]
        return Records(streams[len(opened) - 1])

    made = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setattr(text_stream, "import_extra", lambda name, source: made)
    monkeypatch.setattr(text_stream.time, "sleep", waits.append)
    waits.clear()
    return opened


waits: list[float] = []


def broken(count, error):
    for i in range(count):
        yield {"text": f"number {i}"}
    raise error


WHOLE = [f"number {i}" for i in range(9)]


def test_a_connection_that_breaks_is_opened_again_where_it_was(monkeypatch, capsys):
    whole = [{"text": text} for text in WHOLE]
    cut = RuntimeError("chunk")
    cut.__cause__ = TimeoutError("no answer")
    stream(monkeypatch, broken(3, ConnectionError("reset")), ConnectionError("away"), whole[:5], [])
    assert read("hf:made/up") == WHOLE[:5]
    assert waits == [1, 2]
    assert "record 3" in capsys.readouterr().err
    stream(monkeypatch, broken(3, cut), broken(5, cut), whole)
    assert read("hf:made/up") == WHOLE
    assert waits == [1, 1]  # a record that comes ends a row of failures


def test_a_network_that_stays_away_ends_with_the_record(monkeypatch):
    away = [ConnectionError("away")] * 99
    opened = stream(monkeypatch, broken(3, ConnectionError("reset")), *away)
    documents, error = until_it_breaks("hf:made/up")
    assert documents == WHOLE[:3] and "record 3" in error
    assert waits == list(text_stream.DELAYS) and len(opened) == 1 + len(waits)


class Response(Exception):
    def __init__(self, code):
        self.response = types.SimpleNamespace(status_code=code)


@pytest.mark.parametrize("error", [ValueError("column text changed"), Response(404), OSError(5)])
def test_other_errors_of_a_stream_are_named_at_once(monkeypatch, error):
    stream(monkeypatch, broken(3, error))
    documents, sentence = until_it_breaks("hf:made/up")
    assert documents == WHOLE[:3] and "record 3" in sentence and not waits


def test_a_server_that_is_busy_is_asked_again(monkeypatch):
    stream(monkeypatch, broken(1, Response(503)), [{"text": "x"}, {"text": "y"}])
    assert read("hf:made/up") == ["number 0", "y"]


# A cache under way.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_lm(save_model(random_model(gpt2_config()), tmp_path_factory.mktemp("text") / "m"))


SETTINGS = Settings(
    layers=(1,), context_length=16, batch_windows=4, dtype="float32", chunk_rows=16, shard_rows=64
)


class Stops:
    """A model that is stopped after some passes."""

    def __init__(self, model, passes):
        self._model, self._left = model, passes

    def __getattr__(self, name):
        return getattr(self._model, name)

    def residuals(self, *args):
        self._left -= 1
        if self._left < 0:
            raise KeyboardInterrupt
        return self._model.residuals(*args)


def made(place):
    return {p.relative_to(place): p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}


def test_a_stream_that_breaks_leaves_a_cache_under_way_to_be_resumed(tmp_path, model):
    texts = [f"Document {i}: " + f"number {i * i}. " * 4 for i in range(30)]
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines(texts))
    out, source = tmp_path / "out", str(folder)

    def attempt(model):
        extract(model, read_documents(source), str(out), SETTINGS, source=source)

    with pytest.raises(KeyboardInterrupt):
        attempt(Stops(model, 6))
    durable = made(out)
    assert len(durable) > 8
    (folder / "a.jsonl").write_bytes(lines(texts)[:-20])  # cut
    with pytest.raises(UserError, match=r"a.jsonl line 30"):
        attempt(model)
    (folder / "a.jsonl").write_bytes(lines(texts))
    (folder / "b.md").write_text("one document more than before", encoding="utf-8")
    with pytest.raises(UserError, match=r"an unfinished cache with text"):
        attempt(model)
    assert made(out) == durable
    (folder / "b.md").unlink()
    attempt(model)
    whole = tmp_path / "whole"
    extract(model, texts, str(whole), SETTINGS, source=source)
    assert made(out) == made(whole)


# Token ids in place of text.


def test_columns_of_token_ids_are_documents_without_their_padding(tmp_path):
    rows = [
        {"input_ids": [5, 6, 7, 0, 0], "attention_mask": [1, 1, 1, 0, 0]},
        {"input_ids": [8, 9, 10, 11, 12], "attention_mask": [1, 1, 1, 1, 1]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    ids = [[5, 6, 7], [8, 9, 10, 11, 12]]
    assert read(tmp_path, field="input_ids") == ids * 2


@pytest.mark.parametrize("mask", [[1, 1], [1, 1, 2], "111"])
def test_a_mask_that_does_not_fit_its_ids_is_refused(tmp_path, mask):
    record = {"input_ids": [5, 6, 7], "attention_mask": mask}
    (tmp_path / "a.jsonl").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1: attention_mask"):
        read(tmp_path / "a.jsonl", field="input_ids")


def test_a_window_begins_at_each_bos_among_token_ids():
    documents = [[0, 5, 6, 7, 8, 0, 9, 10], [11, 12]]
    windows = make_windows(documents, list, 4, bos_id=0, heldout_share=0.5)
    assert windows.tokens.tolist() == [0, 5, 6, 7, 0, 8, 0, 9, 10, 0, 11, 12]
    assert windows.lengths.tolist() == [4, 2, 3, 3]
    assert windows.docs.tolist() == [0, 0, 0, 1]


def test_token_ids_are_extracted_as_they_are(tmp_path, model):
    texts = [f"Document {i}: number {i * i}." for i in range(12)]
    ids = [model.tokenizer.encode(text) for text in texts]
    extract(model, ids, str(tmp_path / "ids"), SETTINGS, source="ids")
    cache = Cache.open(str(tmp_path / "ids"))
    columns = [
        [cache.column(name, split).read(0, cache.rows(split)) for split in ("train", "heldout")]
        for name in ("docs", "tokens")
    ]
    docs, tokens = map(np.concatenate, columns)
    for doc, expected in enumerate(ids):
        kept = expected[:-1] if len(expected) % 16 == 1 else expected
        assert tokens[docs == doc].tolist() == kept


@pytest.mark.parametrize("ids", [[1, 2, 384], [1, -1], [3, 4, 0, 0]])
def test_token_ids_that_the_model_has_not_or_that_are_padding_are_refused(tmp_path, model, ids):
    with pytest.raises(UserError, match="token id"):
        extract(model, [[1, 2, 3], ids], str(tmp_path / "out"), SETTINGS, source="ids")
    assert not (tmp_path / "out").exists()
