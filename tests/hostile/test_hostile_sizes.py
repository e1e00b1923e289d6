"""Files that state more than they hold: refused before memory is taken for it."""

import gzip
import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from cache_fixtures import make_cache
from dictionary_fixtures import dictionary
from foreign_fixtures import weights, write_dictionary_learning, write_gemma_scope
from lm_fixtures import gpt2_config, random_model, save_model
from safetensors.numpy import save_file

from vasae_jax.cache import Cache
from vasae_jax.dictionary.files import read_dictionary, write_dictionary
from vasae_jax.extract.row_files import open_rows
from vasae_jax.extract.text import read_documents
from vasae_jax.extract.torch import TorchLM
from vasae_jax.interop.libraries import read_foreign
from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.training.checkpoint import load_params
from vasae_jax.training.digests import write_digests
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import sha256_file
from vasae_jax.utils.sizes import FREE, read_npz

pytestmark = [pytest.mark.fault, pytest.mark.hostile]
HUGE, SMALL = 10**12, 2**20


@pytest.fixture
def small(monkeypatch):
    """A lower limit, so that small files exceed it."""
    monkeypatch.setattr("vasae_jax.utils.sizes.FREE", SMALL)


def text(string):
    return struct.pack("<Q", len(string)) + string.encode()


def gguf_bytes(pairs=b"", tensors=b"", n_pairs=1, n_tensors=0):
    """A GGUF file of this metadata and table of tensors."""
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_pairs) + pairs + tensors + bytes(64)


def listed(kind, count, values=b""):
    """A pair of metadata whose value is a list."""
    return text("a") + struct.pack("<IIQ", 9, kind, count) + values


def tensor(name, *shape, at=0):
    """A float32 tensor of a GGUF file's table."""
    sizes = struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, at)
    return text(name) + sizes


GGUF = {
    "a list": gguf_bytes(listed(5, HUGE)),
    "a list of bytes": gguf_bytes(listed(0, 5_000_000, bytes(5_000_000))),
    "lists in a list": gguf_bytes(listed(9, 1, struct.pack("<IQ", 9, 1) * 500)),
    "a string": gguf_bytes(text("a") + struct.pack("<IQ", 8, HUGE)),
    "pairs": gguf_bytes(n_pairs=HUGE),
    "a tensor": gguf_bytes(tensors=tensor("a", HUGE), n_pairs=0, n_tensors=1),
    "a product that overflows": gguf_bytes(
        tensors=tensor("a", 2**40, 2**40), n_pairs=0, n_tensors=1
    ),
    "one part twice": gguf_bytes(
        tensors=b"".join(tensor(str(n), 16) for n in range(9)), n_pairs=0, n_tensors=9
    ),
}


@pytest.mark.parametrize("name", GGUF)
def test_a_gguf_file_that_states_more_than_it_holds(tmp_path, name):
    (tmp_path / "a.gguf").write_bytes(GGUF[name])
    with pytest.raises(UserError, match=r"a\.gguf"):
        GgufFile(tmp_path / "a.gguf")


def npy(shape, data=b"", dtype="<f4"):
    """The bytes of an .npy file that states a shape."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def write_zip(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


def refused_npz(path, **options):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            read_npz(path, **options)
        assert tracemalloc.get_traced_memory()[1] < FREE
    finally:
        tracemalloc.stop()


def test_an_array_that_states_more_than_its_archive_holds(tmp_path):
    file = tmp_path / "a.npz"
    for shape in ((2**28,), (HUGE,), (2**40, 2**40)):
        write_zip(file, {"a.npy": npy(shape, bytes(64))})
        refused_npz(file)
        refused_npz(file, compressed=True)


def test_an_archive_that_grows(tmp_path, small):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, a=np.zeros(2**20, np.float32))
    refused_npz(file)
    refused_npz(file, compressed=True)
    np.savez_compressed(file, a=np.arange(1000))
    np.testing.assert_array_equal(read_npz(file, compressed=True)["a"], np.arange(1000))
    refused_npz(file)


def test_entries_that_share_their_bytes(tmp_path):
    file = tmp_path / "a.npz"
    write_zip(file, {"a.npy": npy((2**16,), bytes(2**18))})
    with zipfile.ZipFile(file, "a") as archive:
        for number in range(9):
            again, copy = archive.infolist()[0], zipfile.ZipInfo(f"{number}.npy")
            for field in ("file_size", "compress_size", "CRC", "header_offset"):
                setattr(copy, field, getattr(again, field))
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
        archive._didModify = True
    refused_npz(file)
    refused_npz(file, compressed=True)


def test_weights_of_gemma_scope_that_grow(tmp_path):
    folder = write_gemma_scope(tmp_path, weights())
    write_zip(folder / "params.npz", {"W_dec.npy": npy((HUGE, 6), bytes(64))})
    with pytest.raises(UserError, match=r"params\.npz"):
        read_foreign(str(folder))


def test_features_without_width_are_none(tmp_path):
    """Such a matrix has no bytes, and every vector beside it would have one number a feature."""
    folder = write_gemma_scope(tmp_path, weights(), "safetensors")
    none = np.zeros((2**30, 0), np.float32)
    vectors = {name: np.zeros(1, np.float32) for name in ("b_enc", "b_dec")}
    threshold = np.zeros((), np.float32)
    save_file(
        {"w_enc": none.T, "w_dec": none, "threshold": threshold, **vectors},
        folder / "params.safetensors",
    )
    with pytest.raises(UserError, match="features and width"):
        read_foreign(str(folder))


def test_a_dictionary_of_an_old_version_is_filled_up_to_its_own_size(tmp_path):
    write_dictionary(tmp_path / "d.npz", dictionary())
    arrays = dict(np.load(tmp_path / "d.npz"))
    del arrays["fired_rows"]
    np.savez(tmp_path / "d.npz", **arrays | {"verdict": np.zeros((2**40, 0), np.int8)})
    meta = json.loads((tmp_path / "meta.json").read_bytes())
    meta["sha256"]["npz"] = sha256_file(tmp_path / "d.npz")
    (tmp_path / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    with pytest.raises(UserError, match=r"d\.npz"):
        read_dictionary(tmp_path / "d.npz")


def deflate(path):
    """Compress the entries of an archive."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    write_zip(path, entries, zipfile.ZIP_DEFLATED)


def test_torch_weights_that_are_compressed(tmp_path):
    folder = write_dictionary_learning(tmp_path / "sae", weights(), "AutoEncoderTopK")
    deflate(folder / "ae.pt")
    with pytest.raises(UserError, match="compressed"):
        read_foreign(str(folder))
    model = random_model(gpt2_config())
    folder = save_model(model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    deflate(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="compressed"):
        _ = TorchLM(str(folder)).model


def test_torch_weights_that_repeat_one_number(tmp_path):
    folder = write_dictionary_learning(tmp_path / "sae", weights(), "AutoEncoderTopK")
    state = torch.load(folder / "ae.pt", weights_only=True)
    state["encoder.weight"] = torch.zeros(1).expand(2**20, 2**20)
    torch.save(state, folder / "ae.pt")
    with pytest.raises(UserError, match="bytes"):
        read_foreign(str(folder))


@pytest.mark.parametrize("kind", ["txt", "jsonl"])
@pytest.mark.parametrize("end", ["gz", "zst"])
def test_a_compressed_text_that_grows(tmp_path, small, kind, end):
    file = tmp_path / f"a.{kind}.{end}"
    block = b'{"text": "word"}\n' * 2**13
    if end == "gz":
        file.write_bytes(gzip.compress(block) * 20)
    else:
        with pa.CompressedOutputStream(pa.OSFile(str(file), "wb"), "zstd") as out:
            for _ in range(20):
                out.write(block)
    assert file.stat().st_size < SMALL / 100
    with pytest.raises(UserError, match="grows"):
        for _ in read_documents(str(file)):
            pass


def test_a_line_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr("vasae_jax.extract.text_files.LINE", 2**20)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"a" * 2**21)
    with pytest.raises(UserError, match="line 1 has more"):
        list(read_documents(str(tmp_path / "a.jsonl")))


def messages(content):
    return [{"role": "user", "content": content}]


PARQUET = {
    "one long text": pa.table({"text": ["x" * 2**22]}),
    "one text many times": pa.table({"text": ["x" * 2**14] * 100}),
    "one message many times": pa.table({"text": [messages("x" * 2**14)] * 100}),
    "a list of one number": pa.table({"text": pa.array([np.full(2**20, 7, np.int32)])}),
}


@pytest.mark.parametrize("name", PARQUET)
def test_a_parquet_file_that_grows(tmp_path, small, name):
    file = tmp_path / "a.parquet"
    pq.write_table(PARQUET[name], file, compression="zstd")
    assert file.stat().st_size < SMALL / 100
    before = pa.total_allocated_bytes()
    with pytest.raises(UserError, match="grows"):
        list(read_documents(str(file)))
    assert pa.total_allocated_bytes() - before < SMALL


def zigzag(value, length=0):
    """A number in Thrift's compact protocol, of at least ``length`` bytes."""
    value, out = value << 1, bytearray()
    while value >= 128 or len(out) < length - 1:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("name", ["one long text", "a list of one number"])
def test_a_parquet_file_whose_index_is_not_true(tmp_path, small, name):
    file = tmp_path / "a.parquet"
    pq.write_table(PARQUET[name], file, compression="zstd")
    column, content = pq.ParquetFile(file).metadata.row_group(0).column(0), file.read_bytes()
    footer = len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]
    index = content[footer:]
    for stated in (column.total_uncompressed_size, column.num_values):
        index = index.replace(zigzag(stated), zigzag(1, len(zigzag(stated))))
    file.write_bytes(content[:footer] + index)
    column = pq.ParquetFile(file).metadata.row_group(0).column(0)
    assert column.total_uncompressed_size == 1
    before = pa.total_allocated_bytes()
    with pytest.raises(UserError, match="grows"):
        list(read_documents(str(file)))
    assert pa.total_allocated_bytes() - before < SMALL


def write_arrow(folder, table, compression=None, shape=(3, 2)):
    """``table`` as the datasets package stores it."""
    folder.mkdir()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(str(folder / "data.arrow"), table.schema, options=options) as out:
        out.write_table(table)
    info = {"features": {name: {"shape": shape} for name in table.column_names}}
    state = {"_data_files": [{"filename": "data.arrow"}]}
    for name, value in (("state.json", state), ("dataset_info.json", info)):
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    return str(folder)


HOOK = "blocks.1.hook_resid_post"


def rows(count=2):
    return pa.array([[[1.0, 2.0]] * 3] * count)


def tokens(count=2):
    return pa.array([[1, 2, 3]] * count)


ARROW = {
    "compressed": ({HOOK: rows(2000), "token_ids": tokens(2000)}, {"compression": "zstd"}),
    "another shape": ({HOOK: rows(), "token_ids": tokens()}, {"shape": (3, HUGE)}),
    "nulls without bytes": ({HOOK: rows(), "token_ids": pa.nulls(2, pa.list_(pa.null()))}, {}),
    "texts": ({HOOK: rows(), "token_ids": pa.array([["a"], ["b"]])}, {}),
}


@pytest.mark.parametrize("name", ARROW)
def test_arrow_files_that_grow(tmp_path, name):
    columns, options = ARROW[name]
    with pytest.raises(UserError):
        open_rows(write_arrow(tmp_path / "rows", pa.table(columns), **options))


def test_arrow_files_that_do_not(tmp_path):
    source = write_arrow(tmp_path / "rows", pa.table({HOOK: rows(), "token_ids": tokens()}))
    np.testing.assert_array_equal(open_rows(source).read(1, 2), [[[1, 2]] * 3])


def test_rows_of_numpy_and_saev_that_state_more_than_they_hold(tmp_path):
    for folder in (tmp_path / "npy", tmp_path / "saev"):
        folder.mkdir()
    for name, shape, dtype in (("rows", (HUGE, 3, 2), "<f4"), ("tokens", (HUGE, 3), "<i4")):
        (tmp_path / "npy" / f"{name}.npy").write_bytes(npy(shape, bytes(64), dtype))
    with pytest.raises(UserError, match=r"\.npy"):
        open_rows(str(tmp_path / "npy"))
    metadata = {"layers": [0], "n_examples": HUGE, "content_tokens_per_example": 3, "d_model": 2}
    entries = [{"name": "acts.bin", "n_examples": HUGE}]
    for name, value in (("metadata.json", metadata), ("shards.json", entries)):
        (tmp_path / "saev" / name).write_text(json.dumps(value), encoding="utf-8")
    (tmp_path / "saev" / "acts.bin").write_bytes(bytes(64))
    np.save(tmp_path / "tokens.npy", np.ones((2, 3), np.int32))
    with pytest.raises(UserError, match="bytes"):
        open_rows(str(tmp_path / "saev"), tokens=str(tmp_path / "tokens.npy"))


@pytest.mark.parametrize("change", [{"d_model": 2**40}, {"vocab_size": 2**40}, {"rows": 2**40}])
def test_a_cache_that_states_more_than_it_holds(tmp_path, change):
    cache = make_cache(tmp_path, rows=40, heldout=20)
    folder = tmp_path / "cache"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    sizes = {manifest["d_model"]: change.get("d_model"), 40: change.get("vocab_size")}
    if "rows" in change:
        manifest["splits"]["train"]["rows"] = change["rows"]
    else:
        manifest |= change
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for file in folder.rglob("zarr.json"):
        array = json.loads(file.read_bytes())
        replaced = "train" in str(file) and change.get("rows")
        array["shape"] = [replaced or sizes.get(n) or n for n in array["shape"]]
        chunks = (array["chunk_grid"], array["codecs"][0])
        for chunk in chunks:
            shape = chunk["configuration"]["chunk_shape"]
            chunk["configuration"]["chunk_shape"] = [shape[0], *array["shape"][1:]]
        file.write_text(json.dumps(array), encoding="utf-8")
    cache = Cache.open(cache.url)
    with pytest.raises(UserError, match="expected at least"):
        cache.embedding()
        cache.column("docs", "train").read(0, cache.rows("train"))


def test_a_checkpoint_of_zeros_beyond_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("vasae_jax.training.checkpoint.FREE", SMALL)
    item = tmp_path / "checkpoints" / "8" / "params"
    with ocp.StandardCheckpointer() as writer:
        writer.save(item, {"W_enc": np.zeros((2**10, 2**11), np.float32)})
    for folder in (item, item.parent / "rest"):
        folder.mkdir(exist_ok=True)
        write_digests(folder)
    with pytest.raises(UserError, match="bytes in"):
        load_params(tmp_path)


@pytest.mark.parametrize(
    "change", [{"n_embd": 2**20}, {"vocab_size": 2**30}, {"n_positions": 2**24}, {"n_layer": 10**9}]
)
def test_settings_of_a_larger_model_than_its_files(tmp_path, change):
    folder = save_model(random_model(gpt2_config()), tmp_path / "model")
    settings = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(settings | change), encoding="utf-8")
    with pytest.raises(UserError, match="states"):
        _ = TorchLM(str(folder)).model
