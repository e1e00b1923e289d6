"""Rows of other programs, given what Hypothesis made of their files: UserErrors alone come out."""

import io

import numpy as np
import pytest
from hypothesis import strategies as st
from mutations import arrays, attack, damaged, documents_of, npy, replaced, safetensors_of
from safetensors.numpy import save_file
from test_import_rows import write_arrow
from test_import_saev import stacked, write_shards

from vasae_jax.extract.row_files import open_rows

pytestmark = pytest.mark.fault
W, T, D = 4, 3, 2
DATASET = "dataset_info.json"


def sound():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 9, (W, T)).astype(np.int32)
    rows = rng.normal(size=(W, T, D)).astype(np.float32)
    mask, docs = np.ones((W, T), bool), np.arange(W, dtype=np.int32)
    return {"rows": rows, "tokens": tokens, "mask": mask, "docs": docs}


def read(source, **options):
    """Rows that could be opened can be read."""
    found = open_rows(str(source), **options)
    windows, length, width = found.shape
    assert found.read(0, windows).shape == (windows, length, width)
    assert found.tokens.shape == (windows, length)


@pytest.mark.parametrize("name", ["rows", "tokens", "mask", "docs"])
def test_npy(tmp_path, name):
    for each, array in sound().items():
        np.save(tmp_path / f"{each}.npy", array)
    file = tmp_path / f"{name}.npy"
    changed = arrays({name: sound()[name]}).map(lambda values: npy(values.get(name, np.zeros(0))))
    cut = file.read_bytes().replace(b"}", b" ", 1)  # a header without an end
    attack(file, changed | damaged(file.read_bytes()), lambda: read(tmp_path), [cut])


def test_safetensors(tmp_path):
    file = tmp_path / "rows.safetensors"
    save_file(sound(), file)
    attack(file, safetensors_of(file), lambda: read(file))


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json"])
def test_the_records_of_arrow_files(tmp_path, name):
    folder = write_arrow(tmp_path / "arrow", sound()["rows"], sound()["tokens"], parts=1)
    shape = ("features", "blocks.2.hook_resid_post", "shape", 1)
    found = {"state.json": b"{}", "dataset_info.json": replaced(folder / DATASET, shape, -1)}
    attack(folder / name, documents_of(folder / name), lambda: read(folder), [found[name]])


def arrow_columns():
    """Arrow files with columns of other types and lengths."""
    arrow = pytest.importorskip("pyarrow")
    rows, tokens = sound()["rows"].tolist(), sound()["tokens"].tolist()
    values = [rows, tokens, [[[1, 2]] * T] * W, [None] * W, ["a"] * W, [1.5] * W, [[]] * W]
    values.extend([[[None] * T] * W, [[["a"]]] * W, [rows[0], None, rows[1], rows[2]]])
    columns = st.sampled_from([*values, [[1, 2], [3], [], [4]]])
    names = st.sampled_from(["blocks.2.hook_resid_post", "token_ids", "docs", "mask", "x", ""])

    def written(first, other, name):
        out = io.BytesIO()
        values = {"blocks.2.hook_resid_post": first, "token_ids": tokens, name: other}
        table = arrow.table({key: arrow.array(value) for key, value in values.items()})
        with arrow.ipc.new_stream(out, table.schema) as stream:
            stream.write_table(table)
        return out.getvalue()

    return st.builds(written, columns, columns, names)


def test_arrow_files(tmp_path):
    folder = write_arrow(tmp_path / "arrow", sound()["rows"], sound()["tokens"], parts=1)
    (file,) = folder.glob("*.arrow")
    attack(file, arrow_columns() | damaged(file.read_bytes()), lambda: read(folder))


@pytest.mark.parametrize("name", ["metadata.json", "shards.json", "acts000000.bin"])
def test_shards(tmp_path, name):
    folder = write_shards(tmp_path / "shards", stacked(sound()["rows"]), room=3)
    np.save(tmp_path / "tokens.npy", sound()["tokens"])
    file, tokens = folder / name, str(tmp_path / "tokens.npy")
    changed = damaged(file.read_bytes()) if name.endswith("bin") else documents_of(file)
    attack(file, changed, lambda: read(folder, layer=2, tokens=tokens))
