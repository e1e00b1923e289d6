"""What a loaded model offers: any layers, stopping early, going on from a patch, the mesh."""

import subprocess
import sys

import jax
import lm_fixtures as fx
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

from vasae_jax.lm import load_lm, model
from vasae_jax.lm.lm import check_causal
from vasae_jax.utils.errors import UserError

MODELS = {
    "gpt2": lambda: fx.random_model(fx.gpt2_config()),
    "llama": lambda: fx.random_model(
        fx.llama_config(num_attention_heads=8, num_key_value_heads=4, rope_parameters=fx.LLAMA3)
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def directory(request, tmp_path_factory):
    return fx.save_model(MODELS[request.param](), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def lm(directory):
    return load_lm(directory)


TOKENS = fx.random_tokens((4, 24))


def test_any_layers_in_any_order(lm):
    every = np.asarray(lm.residuals(TOKENS, (0, 1, 2)))
    for layers in ((1,), (0, 2), (2, 0), (1, 1)):
        np.testing.assert_array_equal(lm.residuals(TOKENS, layers), every[list(layers)])


def test_one_program_serves_all_sets_of_equal_size(lm):
    lm.residuals(TOKENS, (0, 1))
    compiled = model.residuals._cache_size()
    lm.residuals(TOKENS, (1, 2))
    assert model.residuals._cache_size() == compiled


def test_bfloat16_weights_are_not_held_twice(directory):
    """Scratch memory of the program stays below that of the blocks' weights."""
    narrow = load_lm(directory, "bfloat16")
    tokens, layers = np.zeros((1, 2), np.int32), np.int32([2])
    program = model.residuals.lower(narrow._graph, narrow._weights, tokens, layers).compile()
    blocks = nnx.split(nnx.merge(narrow._graph, narrow._weights).blocks)[1]
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(blocks))
    assert 0 < program.memory_analysis().temp_size_in_bytes < 0.8 * held


def test_blocks_past_the_deepest_layer_do_not_run(lm):
    """Poisoned weights of the last block must not reach earlier layers."""
    poisoned = jax.tree.map(
        lambda a: a.at[-1].set(np.nan) if a.shape[0] == lm.spec.n_layers else a, lm._weights
    )
    early = model.residuals(lm._graph, poisoned, TOKENS, np.int32([0, 1]))
    assert np.isfinite(early).all()
    assert np.isnan(model.residuals(lm._graph, poisoned, TOKENS, np.int32([2]))).any()


def test_padding_on_the_right_changes_nothing_before_it(lm):
    short = lm.residuals(TOKENS[:, :10], (2,))
    padded = TOKENS.copy()
    padded[:, 10:] = 0
    # Products of another shape may round otherwise.
    np.testing.assert_allclose(lm.residuals(padded, (2,))[:, :, :10], short, rtol=1e-4, atol=1e-5)


def test_continuing_from_an_unchanged_layer_gives_the_logits(lm):
    logits = np.asarray(lm.logits(TOKENS))
    assert logits.shape == (4, 24, fx.VOCAB)
    for layer in range(3):
        resumed = lm.continue_from(lm.residuals(TOKENS, (layer,))[0], layer)
        np.testing.assert_allclose(resumed, logits, rtol=1e-5, atol=1e-5)


def test_continuing_from_a_patch_equals_torch_with_the_patch(tmp_path):
    torch_model = fx.random_model(fx.llama_config())
    lm = load_lm(fx.save_model(torch_model, tmp_path))
    patch = np.random.default_rng(3).standard_normal((4, 24, 48)).astype(np.float32)
    import torch

    block = torch_model.model.layers[1]
    hook = block.register_forward_hook(lambda *_: torch.from_numpy(patch))
    expected = fx.torch_logits(torch_model, TOKENS)
    hook.remove()
    np.testing.assert_allclose(lm.continue_from(patch, 1), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("data", "model_axis"), [(2, 4), (8, 1), (1, 8)])
def test_mesh_gives_the_same_numbers(directory, lm, data, model_axis):
    """8 does not divide the 4 heads of gpt2 or the 4 key heads of llama: those replicate."""
    mesh = jax.make_mesh((data, model_axis), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    spread = load_lm(directory, mesh=mesh)
    tokens = fx.random_tokens((8, 16))
    np.testing.assert_allclose(
        spread.residuals(tokens, (0, 2)), lm.residuals(tokens, (0, 2)), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(spread.logits(tokens), lm.logits(tokens), rtol=1e-4, atol=1e-4)


def test_weights_are_split_over_heads_and_ff(directory):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    spread = load_lm(directory, mesh=mesh)
    decoder = nnx.merge(spread._graph, spread._weights)
    assert decoder.embed.sharding.spec == PartitionSpec("model", None)
    block = decoder.blocks
    assert block.attention.query.weight.sharding.spec == PartitionSpec(None, "model", None, None)
    assert block.attention.key.weight.sharding.spec == PartitionSpec(None, "model", None, None)
    assert block.attention.out.weight.sharding.spec == PartitionSpec(None, None, "model", None)
    assert block.mlp.up.weight.sharding.spec == PartitionSpec(None, "model", None)
    assert block.mlp.down.weight.sharding.spec == PartitionSpec(None, None, "model")
    kept = spread.residuals(fx.random_tokens((8, 16)), (1,))
    assert kept.sharding.spec[1] == "data"


def test_host_copies_are_those_of_the_files(lm):
    from safetensors.numpy import load_file

    files = load_file(lm.checkpoint.tensors.files[0])
    gpt2 = lm.spec.family == "gpt2"
    embedding = files["transformer.wte.weight" if gpt2 else "model.embed_tokens.weight"]
    np.testing.assert_array_equal(lm.embedding(), embedding)
    np.testing.assert_array_equal(
        lm.unembedding(), embedding if lm.spec.tied else files["lm_head.weight"]
    )
    norm = lm.final_norm()
    assert norm["kind"] == ("layernorm" if gpt2 else "rmsnorm")
    weight = files["transformer.ln_f.weight" if gpt2 else "model.norm.weight"]
    np.testing.assert_array_equal(np.float32(norm["weight"]), weight)
    assert (norm["bias"] is not None) == gpt2
    assert norm["eps"] == lm.spec.norm_eps


def test_neither_torch_nor_a_device_is_touched_by_importing_and_no_torch_by_loading(directory):
    program = f"""
import sys
from jax._src import xla_bridge
from vasae_jax.lm import load_lm
assert not xla_bridge._backends
load_lm({str(directory)!r}).residuals([[1, 2]], (0,))
assert not {{"torch", "transformers"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_identity(directory, lm):
    assert lm.id == directory.name
    assert lm.revision is None
    assert len(lm.source_digest) == 64
    assert load_lm(directory, "bfloat16").source_digest == lm.source_digest


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda lm: lm.residuals(TOKENS, (3,)), "layer 3 .* 0 to 2"),
        (lambda lm: lm.residuals(TOKENS, (-1,)), "layer -1 "),
        (lambda lm: lm.residuals(TOKENS, ()), "layer none"),
        (lambda lm: lm.residuals(np.zeros((1, 65), int), (0,)), "65 tokens; .*64"),
        (lambda lm: lm.residuals(TOKENS[0], (0,)), r"shape \(24,\)"),
        (lambda lm: lm.residuals(TOKENS * 1.0, (0,)), "type float"),
        (lambda lm: lm.logits(TOKENS + fx.VOCAB), "token id .* outside"),
        (lambda lm: lm.logits(TOKENS - fx.VOCAB), "token id -"),
        (lambda lm: lm.continue_from(np.zeros((1, 2, 3), np.float32), 0), r"shape \(1, 2, 3\)"),
    ],
)
def test_unusable_calls_are_refused(lm, call, message):
    with pytest.raises(UserError, match=message):
        call(lm)


def test_sliding_window_is_refused_beyond_its_reach(tmp_path):
    import transformers

    config = transformers.MistralConfig(
        vocab_size=fx.VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, sliding_window=8,
    )  # fmt: skip
    lm = load_lm(fx.save_model(fx.random_model(config), tmp_path))
    lm.residuals(TOKENS[:, :8], (0,))
    with pytest.raises(UserError, match=r"9 tokens; .*at most 8"):
        lm.residuals(TOKENS[:, :9], (0,))


@pytest.mark.fault
def test_a_model_that_attends_to_later_tokens_is_refused_at_its_first_batch(directory, monkeypatch):
    lm = load_lm(directory)
    causal = model.residuals

    def bidirectional(graph, weights, tokens, *rest):
        rows = causal(graph, weights, tokens, *rest)
        return rows + rows.mean(axis=2, keepdims=True)

    monkeypatch.setattr(model, "residuals", bidirectional)
    with pytest.raises(UserError, match="later tokens"):
        lm.residuals(TOKENS, (0, 1))


def test_the_first_batch_has_the_rows_of_any_other(directory):
    lm = load_lm(directory)
    first = np.asarray(lm.residuals(TOKENS, (0, 2)))
    np.testing.assert_array_equal(lm.residuals(TOKENS, (0, 2)), first)


def test_a_later_token_changes_no_earlier_row(lm):
    rows = np.asarray(lm.residuals(TOKENS, (2,)))
    changed = TOKENS.copy()
    changed[:, 9] = (changed[:, 9] + 1) % fx.VOCAB
    np.testing.assert_array_equal(lm.residuals(changed, (2,))[:, :, :9], rows[:, :, :9])


def test_a_leak_that_is_small_beside_the_first_row_is_found():
    """The first row of a window is often a thousand times as long as the others."""
    scale = np.where(np.arange(8) == 0, 1000.0, 1.0)[None, None, :, None]

    def leaking(tokens):
        rows = tokens[None, :, :, None] * np.ones(4) + scale
        return rows + 0.01 * tokens.mean(axis=1)[None, :, None, None]

    with pytest.raises(UserError, match="later tokens"):
        check_causal(leaking, np.ones((1, 8), np.int64), 9, "a model")


def test_rows_within_the_tolerance_are_those_of_a_causal_model():
    def rounded(tokens):
        return (1 + 1e-3 * tokens[:, -1:, None] * np.ones((2, 8, 4)))[None]

    tokens = np.ones((2, 8), np.int64)
    np.testing.assert_array_equal(
        check_causal(rounded, tokens, 9, "a model", tolerance=2e-2), rounded(tokens)
    )
    with pytest.raises(UserError, match="later tokens"):
        check_causal(rounded, tokens, 9, "a model")
