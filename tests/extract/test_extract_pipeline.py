"""From a small real checkpoint to a cache: the right rows, in the right place, or one sentence."""

import itertools
import runpy
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from lm_fixtures import gpt2_config, llama_config, random_model, save_model, torch_residuals

from vasae_jax.cache import Cache, verify
from vasae_jax.extract import Settings, extract
from vasae_jax.extract.arguments import make_parser, run
from vasae_jax.extract.backends import make_mesh
from vasae_jax.extract.pipeline import shard_rows
from vasae_jax.extract.torch import TorchLM
from vasae_jax.lm import load_lm
from vasae_jax.sites import as_sites
from vasae_jax.utils.errors import UserError

TEXTS = [
    f"Document {i} says: " + f"number {i * i} and then {i * 7}. " * (1 + i % 4) for i in range(24)
]
SETTINGS = Settings(
    layers=(0, 2),
    context_length=16,
    batch_windows=5,
    dtype="float32",
    chunk_rows=64,
    shard_rows=256,
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A GPT-2 and a Llama, as directories and as torch models; the Llama wants a BOS."""
    place = tmp_path_factory.mktemp("models")
    found = {}
    for name, config, bos in (("gpt2", gpt2_config(), False), ("llama", llama_config(), True)):
        model = random_model(config)
        found[name] = (save_model(model, place / name, add_bos=bos), model)
    return found


def read(cache, name, split):
    array = cache.column(name, split) if isinstance(name, str) else cache.acts(name, split)
    return array.read(0, array.shape[0])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_rows_are_the_models_own(checkpoints, tmp_path, name):
    directory, torch_model = checkpoints[name]
    lm = load_lm(directory)
    extract(lm, TEXTS, str(tmp_path / "cache"), SETTINGS, source="made up")
    cache = Cache.open(str(tmp_path / "cache"))
    assert cache.manifest.bos == (name == "llama")
    assert verify(str(tmp_path / "cache")) == []
    seen = set()
    for split in ("train", "heldout"):
        columns = [read(cache, name, split) for name in ("tokens", "positions", "docs")]
        tokens, positions, docs = columns
        rows = {layer: read(cache, layer, split) for layer in (0, 2)}
        begins = [*np.flatnonzero(positions == 0), len(tokens)]
        for start, stop in itertools.pairwise(begins):  # one window at a time
            assert positions[start:stop].tolist() == list(range(stop - start))
            assert len(set(docs[start:stop])) == 1
            expected = torch_residuals(torch_model, tokens[None, start:stop])[:, 0]
            for layer in (0, 2):
                np.testing.assert_allclose(
                    rows[layer][start:stop], expected[layer], rtol=1e-4, atol=1e-4
                )
        for doc in set(docs):
            ids = tokens[docs == doc]
            ids = ids[positions[docs == doc] > 0] if name == "llama" else ids
            whole = lm.tokenizer.encode(TEXTS[doc])
            # Without a BOS a last window of one token is dropped.
            assert ids.tolist() == (
                whole if name == "llama" or len(whole) % 16 != 1 else whole[:-1]
            )
        assert not seen & set(docs)
        seen |= set(docs)
    assert seen == set(range(len(TEXTS)))


def test_the_manifest_tells_where_everything_came_from(checkpoints, tmp_path):
    directory, torch_model = checkpoints["llama"]
    lm = load_lm(directory)
    manifest = extract(lm, TEXTS, str(tmp_path / "cache"), SETTINGS, source="made up")
    assert (manifest.model.id, manifest.model.family) == ("llama", "llama")
    assert manifest.model.source_digest == lm.source_digest
    assert (manifest.sites, manifest.context_length) == (as_sites((0, 2)), 16) and not manifest.tied
    assert manifest.text.source == "made up"
    cache = Cache.open(str(tmp_path / "cache"))
    weights = torch_model.state_dict()
    np.testing.assert_array_equal(cache.embedding(), weights["model.embed_tokens.weight"])
    np.testing.assert_array_equal(cache.unembedding(), weights["lm_head.weight"])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_both_backends_write_the_same_cache(checkpoints, tmp_path, name):
    directory, _ = checkpoints[name]
    for kind, model in (("flax", load_lm(directory)), ("torch", TorchLM(str(directory)))):
        extract(model, TEXTS, str(tmp_path / kind), SETTINGS, source="made up")
    flax, torch = (Cache.open(str(tmp_path / kind)) for kind in ("flax", "torch"))
    for field in ("model", "text", "splits", "digests", "tied", "bos"):
        assert getattr(flax.manifest, field) == getattr(torch.manifest, field), field
    for split in ("train", "heldout"):
        for column in ("tokens", "positions", "docs"):
            np.testing.assert_array_equal(read(flax, column, split), read(torch, column, split))
        for layer in (0, 2):
            np.testing.assert_allclose(
                read(flax, layer, split), read(torch, layer, split), rtol=1e-4, atol=1e-4
            )


def test_rows_do_not_depend_on_the_size_of_a_batch(checkpoints, tmp_path):
    """The same rows at the same places; their numbers within the rounding of another shape."""
    lm = load_lm(checkpoints["llama"][0])
    for size in (1, 5):
        settings = replace(SETTINGS, batch_windows=size)
        extract(lm, TEXTS, str(tmp_path / str(size)), settings, source="made up")
    one, five = (Cache.open(str(tmp_path / str(size))) for size in (1, 5))
    assert one.manifest.computed != five.manifest.computed
    for split in ("train", "heldout"):
        for column in ("tokens", "positions", "docs"):
            np.testing.assert_array_equal(read(one, column, split), read(five, column, split))
        np.testing.assert_allclose(read(one, 2, split), read(five, 2, split), rtol=1e-4, atol=1e-4)


def test_an_unfinished_cache_of_unpacked_rows_is_not_continued(checkpoints, tmp_path):
    """As caches were before windows shared slots: the sentence says what differs."""
    lm = load_lm(checkpoints["gpt2"][0])
    wide = np.full((3, 4, 64, lm.spec.d_model), np.nan, np.float32)
    lm.residuals = lambda tokens, layers, *_: jnp.asarray(wide[: len(layers), :, : tokens.shape[1]])
    settings = Settings(layers=(0,), context_length=16, batch_windows=4)
    lm.packs = False
    with pytest.raises(UserError, match="not finite"):
        extract(lm, TEXTS, str(tmp_path / "c"), settings, source="x")
    lm.packs = True
    with pytest.raises(UserError, match=r"unfinished cache with computed .*; expected .* packed, "):
        extract(lm, TEXTS, str(tmp_path / "c"), settings, source="x")


def test_bfloat16_rows_are_the_float32_rows_rounded(checkpoints, tmp_path):
    lm = load_lm(checkpoints["gpt2"][0])
    for dtype in ("float32", "bfloat16"):
        settings = Settings(layers=(1,), context_length=16, dtype=dtype)
        extract(lm, TEXTS, str(tmp_path / dtype), settings, source="made up")
    exact, rounded = (
        read(Cache.open(str(tmp_path / d)), 1, "train") for d in ("float32", "bfloat16")
    )
    assert rounded.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(exact.astype(ml_dtypes.bfloat16), rounded)


def test_a_shard_holds_a_bounded_number_of_bytes():
    bf16 = Settings()
    assert shard_rows(bf16, 576 * 2) == 32768
    assert shard_rows(bf16, 4096 * 32) == 2048
    assert shard_rows(bf16, 4096 * 80) == 2048  # never less than a chunk


def tool(directory, out, *options, text="pydoc-topics", layers="0"):
    given = ["--model", str(directory), "--text", text, "--out", str(out), "--layers", layers]
    arguments = make_parser("").parse_args([*given, "--max-rows", "2000", *options])
    return run(arguments, lambda _: load_lm(directory))


def test_the_command_line_makes_a_cache_and_refuses_to_replace_it(checkpoints, tmp_path, capsys):
    directory, _ = checkpoints["gpt2"]
    out = tmp_path / "cache"
    assert tool(directory, out, "--context-length", "32", layers="all") == 0
    assert "layers.1.resid_post, layers.2.resid_post; train" in capsys.readouterr().out
    before = (out / "manifest.json").read_bytes()
    assert tool(directory, out, "--context-length", "32") == 2
    assert "is a complete cache; expected a new place, or --overwrite" in capsys.readouterr().err
    assert (out / "manifest.json").read_bytes() == before
    assert tool(directory, out, "--context-length", "32", "--overwrite") == 0
    assert Cache.open(str(out)).manifest.sites == as_sites((0,))


@pytest.mark.parametrize(
    "options, layers, message",
    [
        ([], "0,3", "layer is 3; expected 0 to 2 of gpt2"),
        ([], "-1", "layer -1 is negative"),
        ([], "one", "layers are 'one'"),
        (["--context-length", "65"], "0", "context length is 65; expected 2 to 64"),
        (["--context-length", "1"], "0", "context length is 1; expected 2 to 64"),
        (["--context-length", "9", "--heldout-share", "1"], "0", "held-out share is 1.0"),
        (
            ["--context-length", "9", "--batch-windows", "0"],
            "0",
            "batch windows is 0; expected at least 1",
        ),
        (
            ["--context-length", "32", "--shard-rows", "100"],
            "0",
            "expected a multiple of chunk_rows",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(
    checkpoints, tmp_path, capsys, options, layers, message
):
    out = tmp_path / "cache"
    assert tool(checkpoints["gpt2"][0], out, *options, layers=layers) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("extract: ")
    assert message in error
    assert not out.exists()


def test_empty_text_is_one_sentence(checkpoints, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    out = tmp_path / "cache"
    text = str(tmp_path / "empty.txt")
    assert tool(checkpoints["gpt2"][0], out, "--context-length", "32", text=text) == 2
    assert "the text is empty" in capsys.readouterr().err
    assert not out.exists()


def test_an_output_below_a_file_is_refused(checkpoints, tmp_path, capsys):
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert tool(checkpoints["gpt2"][0], tmp_path / "file" / "cache", "--context-length", "32") == 2
    assert "is not a directory that can be written to" in capsys.readouterr().err


def test_a_bos_that_the_model_lacks_is_refused(tmp_path):
    class NoBos:
        bos_id = None
        add_bos = False

    lm = load_lm(save_model(random_model(gpt2_config()), tmp_path / "m"))
    lm.tokenizer = NoBos()
    with pytest.raises(UserError, match="has no BOS token; expected --bos no"):
        extract(lm, TEXTS, str(tmp_path / "c"), Settings(bos=True, context_length=8), source="x")


@pytest.mark.fault
def test_rows_that_are_not_finite_are_named(tmp_path):
    import torch

    model = random_model(gpt2_config())
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.bias[3] = 1e38
        model.transformer.h[2].mlp.c_proj.bias[3] = 3e38
    lm = load_lm(save_model(model, tmp_path / "m"))
    settings = Settings(layers=(0, 2), context_length=8)
    with pytest.raises(UserError, match=r"layers\.2\.resid_post has a value .* document 0"):
        extract(lm, TEXTS, str(tmp_path / "c"), settings, source="x")
    with pytest.raises(UserError, match="unfinished"):
        Cache.open(str(tmp_path / "c"))


def test_extraction_imports_no_torch():
    """The Flax tool must run where torch is not installed."""
    import subprocess
    import sys

    code = "import sys, vasae_jax.extract.arguments; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_a_mesh_gives_the_rows_of_one_device(checkpoints, tmp_path, capsys):
    """4 x 2 virtual devices: windows over one axis, heads and MLP over the other."""
    flax_tool = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "extract_flax.py"))
    directory, _ = checkpoints["gpt2"]
    for mesh in ("1,1", "4,2"):
        given = ["--model", str(directory), "--text", "pydoc-topics", "--out", str(tmp_path / mesh)]
        shape = [
            "--layers",
            "0,2",
            "--context-length",
            "32",
            "--max-rows",
            "1500",
            "--dtype",
            "float32",
        ]
        arguments = make_parser("")
        flax_tool["options"](arguments)
        parsed = arguments.parse_args([*given, *shape, "--mesh", mesh])
        assert run(parsed, flax_tool["build"]) == 0
    one, many = (Cache.open(str(tmp_path / mesh)) for mesh in ("1,1", "4,2"))
    for layer in (0, 2):
        np.testing.assert_allclose(
            read(many, layer, "train"), read(one, layer, "train"), rtol=1e-4, atol=1e-4
        )
    with pytest.raises(UserError, match="--mesh 9,1 needs 9 devices; 8 found"):
        make_mesh("9,1")
