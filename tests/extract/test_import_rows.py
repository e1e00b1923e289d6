"""Rows of another program into a cache, and a cache's rows out as NumPy files."""

import ml_dtypes
import numpy as np
import pytest
from cache_fixtures import make_cache
from lm_fixtures import VOCAB, llama_config, random_model, save_model
from safetensors.numpy import save_file

from vasae_jax.cache import Cache, verify
from vasae_jax.cli.main import main
from vasae_jax.sites import Site

W, T = 30, 8
"""Windows, and rows of each."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(random_model(llama_config()), tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def width(model):
    return llama_config().hidden_size


def given(width, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(W, T, width)).astype(np.float32)
    tokens = rng.integers(1, VOCAB, (W, T)).astype(np.int32)
    return rows, tokens, np.repeat(np.arange(W // 3), 3)


def write_npy(folder, rows, tokens, docs=None):
    folder.mkdir(exist_ok=True)
    arrays = {"rows": rows, "tokens": tokens} | ({} if docs is None else {"docs": docs})
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def write_arrow(folder, rows, tokens, hook="blocks.2.hook_resid_post", parts=2):
    """As SAELens' CacheActivationsRunner does it."""
    datasets = pytest.importorskip("datasets")
    shape = rows.shape[1:]
    features = datasets.Features(
        {
            hook: datasets.Array2D(shape=shape, dtype="float32"),
            "token_ids": datasets.Sequence(datasets.Value(dtype="int32"), length=shape[0]),
        }
    )
    made = datasets.Dataset.from_dict({hook: rows, "token_ids": tokens}, features=features)
    made.save_to_disk(str(folder), num_shards=parts)
    return folder


def command(source, model, out, **options):
    named = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    small = ["--chunk-rows=16", "--shard-rows=64", "--dtype=float32"]
    return ["cache", "import", str(source), f"--model={model}", f"--out={out}", *small, *named]


def held_out(docs, share):
    """Documents held out, by a plain loop."""
    names = sorted(set(docs.tolist()))
    out = {doc for i, doc in enumerate(names) if int((i + 1) * share) > int(i * share)}
    return np.array([doc in out for doc in docs.tolist()])


def check(cache, rows, tokens, docs, layer, share=0.2):
    away = held_out(docs, share)
    for split, mine in (("train", ~away), ("heldout", away)):
        count = cache.rows(split)
        assert count == mine.sum() * T
        np.testing.assert_array_equal(
            cache.acts(layer, split).read(0, count), rows[mine].reshape(count, -1)
        )
        columns = {
            "tokens": tokens[mine].reshape(-1),
            "positions": np.tile(np.arange(T), mine.sum()),
            "docs": np.repeat(docs[mine], T),
        }
        for name, expected in columns.items():
            np.testing.assert_array_equal(cache.column(name, split).read(0, count), expected)


@pytest.mark.parametrize("documents", [False, True])
def test_npy(tmp_path, model, width, documents):
    rows, tokens, docs = given(width)
    source = write_npy(tmp_path / "rows", rows, tokens, docs if documents else None)
    asked = command(source, model, tmp_path / "out", layer=1, heldout_share=0.2)
    assert main(asked) == 0
    cache = Cache.open(str(tmp_path / "out"))
    check(cache, rows, tokens, docs if documents else np.arange(W), 1)
    assert verify(cache.url) == []
    assert cache.embedding().shape == (VOCAB, width) and len(cache.vocab()) == VOCAB
    assert cache.manifest.sites == (Site(1),) and not cache.manifest.bos


def test_rows_laid_flat_need_the_length_of_a_window(tmp_path, model, width, capsys):
    rows, tokens, _ = given(width)
    source = write_npy(tmp_path / "rows", rows.reshape(-1, width), tokens.reshape(-1))
    asked = command(source, model, tmp_path / "out", layer=1, heldout_share=0.2)
    assert "laid flat; expected --context-length" in refused(capsys, asked)
    assert main([*asked, f"--context-length={T}"]) == 0
    check(Cache.open(str(tmp_path / "out")), rows, tokens, np.arange(W), 1)


def test_safetensors_in_bfloat16(tmp_path, model, width):
    rows, tokens, _ = given(width)
    half = rows.astype(ml_dtypes.bfloat16)
    save_file({"rows": half, "tokens": tokens}, tmp_path / "rows.safetensors")
    asked = command(tmp_path / "rows.safetensors", model, tmp_path / "out", layer=1)
    assert main([*asked, "--heldout-share=0.2"]) == 0
    check(Cache.open(str(tmp_path / "out")), half.astype(np.float32), tokens, np.arange(W), 1)


@pytest.mark.parametrize(
    ("hook", "layer"), [("blocks.2.hook_resid_post", 2), ("blocks.2.hook_resid_pre", 1)]
)
def test_saelens_arrow_files(tmp_path, model, width, hook, layer):
    rows, tokens, _ = given(width)
    tokens[:, 0] = 0  # the BOS of the model's tokenizer
    source = write_arrow(tmp_path / "rows", rows, tokens, hook)
    assert main(command(source, model, tmp_path / "out", heldout_share=0.2)) == 0
    cache = Cache.open(str(tmp_path / "out"))
    check(cache, rows, tokens, np.arange(W), layer)
    assert cache.manifest.bos


def test_export_is_what_the_cache_holds(tmp_path):
    cache = make_cache(tmp_path, rows=300)
    asked = ["cache", "export", cache.url, "--layer=3", f"--out={tmp_path / 'out'}"]
    assert main(asked) == 0
    rows = np.load(tmp_path / "out" / "rows.npy")
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(rows, cache.acts(3, "train").read(0, 300).astype(np.float32))
    for name in ("tokens", "positions", "docs"):
        found = np.load(tmp_path / "out" / f"{name}.npy")
        np.testing.assert_array_equal(found, cache.column(name, "train").read(0, 300))


def test_what_is_exported_is_imported_again(tmp_path, model, width):
    rows, tokens, docs = given(width)
    source = write_npy(tmp_path / "rows", rows, tokens, docs)
    assert main(command(source, model, tmp_path / "one", layer=1, heldout_share=0.2)) == 0
    assert main(["cache", "export", str(tmp_path / "one"), f"--out={tmp_path / 'again'}"]) == 0
    again = command(tmp_path / "again", model, tmp_path / "two", layer=1, heldout_share=0.2)
    assert main([*again, f"--context-length={T}"]) == 0
    kept = ~held_out(docs, 0.2)
    cache = Cache.open(str(tmp_path / "two"))
    check(cache, rows[kept], tokens[kept], docs[kept], 1)


def refused(capsys, arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("vasae: ") and said.count("\n") == 1
    return said


def test_what_does_not_fit_is_one_sentence_and_nothing_is_written(tmp_path, model, width, capsys):
    rows, tokens, docs = given(width)
    out = tmp_path / "out"
    cases = [
        ({"rows": rows[:, :, :-1]}, {"layer": 1}, f"width {width - 1}; expected {width}"),
        ({"tokens": tokens[:-1]}, {"layer": 1}, "has tokens of shape (29, 8)"),
        ({"tokens": tokens + VOCAB}, {"layer": 1}, f"expected 0 to {VOCAB - 1}, the vocabulary"),
        ({"docs": docs[::-1]}, {"layer": 1}, "expected an ascending number"),
        ({}, {"layer": 9}, "layer is 9; expected 0 to"),
        ({}, {}, "does not say its rows' layer; expected --layer"),
        ({}, {"layer": 1, "heldout_share": 1}, "--heldout-share is 1.0"),
    ]
    for number, (changed, options, sentence) in enumerate(cases):
        arrays = {"rows": rows, "tokens": tokens, "docs": docs} | changed
        source = write_npy(tmp_path / f"rows{number}", **arrays)
        assert sentence in refused(capsys, command(source, model, out, **options))
    assert "holds no rows that are known" in refused(capsys, command(tmp_path, model, out, layer=1))
    assert not out.exists()


def test_rows_that_are_not_finite_are_refused(tmp_path, model, width, capsys):
    rows, tokens, _ = given(width)
    rows[5, 2, 3] = np.nan
    source = write_npy(tmp_path / "rows", rows, tokens)
    assert "finite" in refused(capsys, command(source, model, tmp_path / "out", layer=1))


def test_export_asks_which_layer_and_keeps_what_is_there(tmp_path, capsys):
    cache = make_cache(tmp_path, rows=100)
    out = tmp_path / "out"
    asked = ["cache", "export", cache.url, f"--out={out}"]
    assert "layers.1.resid_post, layers.3.resid_post; expected --layer" in refused(capsys, asked)
    out.mkdir()
    (out / "rows.npy").write_text("precious", encoding="utf-8")
    assert "exists already" in refused(capsys, [*asked, "--layer=1"])
    assert [path.read_text(encoding="utf-8") for path in out.iterdir()] == ["precious"]
