"""Residual streams and logits equal torch's: relative error <= 1e-4 at every layer, float32."""

import json

import jax
import lm_fixtures as fx
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from vasae_jax.lm import load_lm

TOLERANCE = 1e-4

MISTRAL = transformers.MistralConfig(
    vocab_size=fx.VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, sliding_window=48,
)  # fmt: skip
QWEN2 = transformers.Qwen2Config(
    vocab_size=fx.VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip

SMALL = dict(  # noqa: C408
    vocab_size=fx.VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
    num_attention_heads=4, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
)  # fmt: skip
NEOX = transformers.GPTNeoXConfig(**SMALL)
QWEN3 = transformers.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16)
GEMMA2 = transformers.Gemma2Config(
    **SMALL, num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=24, sliding_window=48,
    attn_logit_softcapping=2.0, final_logit_softcapping=3.0, pad_token_id=0,
)  # fmt: skip
GEMMA3 = transformers.Gemma3TextConfig(
    **SMALL, num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=24, sliding_window=48,
    layer_types=["sliding_attention", "full_attention", "sliding_attention"], pad_token_id=0,
    rope_parameters={
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
)  # fmt: skip

CONFIGS = {
    "gpt2": fx.gpt2_config(),
    "gpt2-inner-untied-relu": fx.gpt2_config(
        n_inner=40, tie_word_embeddings=False, activation_function="relu"
    ),
    "llama-untied": fx.llama_config(),
    "llama-tied-derived-head": fx.llama_config(
        tie_word_embeddings=True, head_dim=None, num_key_value_heads=6
    ),
    "llama-biases": fx.llama_config(attention_bias=True, mlp_bias=True),
    "llama-llama3": fx.llama_config(rope_parameters=fx.LLAMA3),
    "llama-linear": fx.llama_config(
        rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    ),
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "neox": NEOX,
    "neox-in-turn-whole-heads": transformers.GPTNeoXConfig(
        **SMALL,
        use_parallel_residual=False,
        attention_bias=False,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0},
    ),
    "gemma2": GEMMA2,
    "gemma3": GEMMA3,
}


def relative(actual, expected):
    """Norm of the difference over the norm, per layer."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    axes = tuple(range(1, expected.ndim))
    return np.sqrt(((actual - expected) ** 2).sum(axes) / (expected**2).sum(axes))


def assert_equal_to_torch(lm, model, tokens):
    expected = fx.torch_residuals(model, tokens)
    actual = lm.residuals(tokens, range(lm.spec.n_layers))
    assert actual.shape == expected.shape
    assert actual.dtype == np.float32
    errors = relative(actual, expected)
    assert errors.max() <= TOLERANCE, errors


OLDER = {
    "neox": {"rotary_pct": 0.25, "rotary_emb_base": 10000},
    "gemma2": {"rope_theta": 10000.0, "layer_types": None},
    "gemma3": {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
}
"""What transformers 4 writes in the place of ``rope_parameters``."""


@pytest.mark.parametrize("name", OLDER)
def test_older_spelling_of_these_families(tmp_path, name):
    model = fx.random_model(CONFIGS[name])
    fx.save_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) | OLDER[name]
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_equal_to_torch(load_lm(tmp_path), model, fx.random_tokens((1, 48)))


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_what_enters_a_cache_of_gemma_is_what_multiplies(tmp_path, name):
    """The final norm's weight is one more than the file's; embeddings are the file's."""
    model = fx.random_model(CONFIGS[name])
    lm = load_lm(fx.save_model(model, tmp_path))
    weight = model.model.norm.weight.detach().numpy()
    np.testing.assert_allclose(lm.final_norm()["weight"], 1 + weight, rtol=1e-6)
    np.testing.assert_array_equal(lm.embedding(), model.model.embed_tokens.weight.detach().numpy())


@pytest.mark.parametrize("sharded", [False, True])
def test_torchs_own_files_equal_safetensors(tmp_path, sharded):
    model = fx.random_model(CONFIGS["llama-untied"])
    fx.save_model(model, tmp_path)
    state = {f"{key}": value.clone() for key, value in model.state_dict().items()}
    (tmp_path / "model.safetensors").unlink()
    if sharded:
        keys = sorted(state)
        shards = {"a.bin": keys[::2], "b.bin": keys[1::2]}
        for file, names in shards.items():
            torch.save({key: state[key] for key in names}, tmp_path / file)
        weight_map = {key: file for file, names in shards.items() for key in names}
        index = tmp_path / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    else:
        torch.save(state, tmp_path / "pytorch_model.bin")
    assert_equal_to_torch(load_lm(tmp_path), model, fx.random_tokens((1, 16)))


@pytest.mark.parametrize("name", CONFIGS)
def test_directory_equals_torch(tmp_path, name):
    model = fx.random_model(CONFIGS[name])
    lm = load_lm(fx.save_model(model, tmp_path))
    tokens = fx.random_tokens((2, 48))
    assert_equal_to_torch(lm, model, tokens)
    error = relative(lm.logits(tokens)[None], fx.torch_logits(model, tokens)[None])
    assert error[0] <= TOLERANCE


def test_sharded_directory_equals_torch(tmp_path):
    model = fx.random_model(CONFIGS["llama-untied"])
    fx.save_model(model, tmp_path, shard_size="60KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert_equal_to_torch(load_lm(tmp_path), model, fx.random_tokens((2, 16)))


@pytest.mark.parametrize("name", ["gpt2", "llama-untied"])
def test_names_without_the_prefix_are_found(tmp_path, name):
    model = fx.random_model(CONFIGS[name])
    fx.save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    plain = {
        key.removeprefix("transformer.").removeprefix("model."): tensors[key] for key in tensors
    }
    assert plain.keys() != tensors.keys()
    save_file(plain, tmp_path / "model.safetensors")
    assert_equal_to_torch(load_lm(tmp_path), model, fx.random_tokens((1, 16)))


def test_transformers_4_spelling_of_rotary_settings(tmp_path):
    model = fx.random_model(CONFIGS["llama-llama3"])
    fx.save_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = {"type": scaling.pop("rope_type"), **scaling}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert_equal_to_torch(load_lm(tmp_path), model, fx.random_tokens((1, 48)))


def test_bfloat16_checkpoint_is_read_exactly(tmp_path):
    model = fx.random_model(CONFIGS["llama-untied"]).bfloat16()
    fx.save_model(model, tmp_path)
    assert load_lm(tmp_path).embedding().dtype == np.float32
    widened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert_equal_to_torch(load_lm(tmp_path), widened, fx.random_tokens((1, 16)))


def test_long_windows_attend_in_blocks(tmp_path):
    """More queries than one block holds, and not a multiple of it."""
    model = fx.random_model(fx.llama_config(max_position_embeddings=700, num_hidden_layers=1))
    lm = load_lm(fx.save_model(model, tmp_path))
    assert_equal_to_torch(lm, model, fx.random_tokens((1, 650)))


def test_bfloat16_is_near_float32(tmp_path):
    directory = fx.save_model(fx.random_model(CONFIGS["llama-untied"]), tmp_path)
    tokens = fx.random_tokens((2, 32))
    exact = load_lm(directory).residuals(tokens, (2,))
    rounded = load_lm(directory, "bfloat16").residuals(tokens, (2,))
    assert rounded.dtype == np.float32
    assert 1e-4 < relative(rounded, exact)[0] < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "neox", "gemma2", "gemma3"])
def test_a_mesh_and_going_on_from_a_layer_give_the_same_logits(tmp_path, name):
    directory = fx.save_model(fx.random_model(CONFIGS[name]), tmp_path)
    tokens, lm = fx.random_tokens((4, 20)), load_lm(directory)
    auto = (jax.sharding.AxisType.Auto,) * 2
    spread = load_lm(directory, mesh=jax.make_mesh((2, 4), ("data", "model"), axis_types=auto))
    expected = lm.logits(tokens)[None]
    assert relative(spread.logits(tokens)[None], expected)[0] < 1e-5
    patched = lm.continue_from(lm.residuals(tokens, (1,))[0], 1)
    assert relative(patched[None], expected)[0] < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "llama-tied-derived-head", "gemma2"])
@pytest.mark.parametrize("equal", [False, True])
def test_a_head_in_the_files_counts_more_than_a_setting_that_ties_it(tmp_path, name, equal):
    model = fx.random_model(CONFIGS[name])
    fx.save_model(model, tmp_path)
    path = tmp_path / "model.safetensors"
    embedding = model.get_input_embeddings().weight.detach().numpy()
    head = embedding if equal else np.flip(embedding, 0)
    save_file(load_file(path) | {"lm_head.weight": np.ascontiguousarray(head)}, path)
    lm = load_lm(tmp_path)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert lm.spec.tied is equal
    np.testing.assert_array_equal(lm.unembedding(), reference.lm_head.weight.detach().numpy())
    tokens = fx.random_tokens((1, 16))
    assert relative(lm.logits(tokens)[None], fx.torch_logits(reference, tokens)[None])[0] <= 1e-4


def test_a_tied_model_that_is_saved_with_its_head_alone(tmp_path):
    model = fx.random_model(CONFIGS["gpt2"])
    fx.save_model(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    assert_equal_to_torch(load_lm(tmp_path), model, fx.random_tokens((1, 16)))
