"""GGUF files of every family that is written in Flax: the same residual streams as torch's."""

import copy

import gguf
import lm_fixtures as fx
import numpy as np
import pytest
import transformers
from gguf_fixtures import write_gguf
from test_lm_parity import CONFIGS, SMALL, assert_equal_to_torch, relative

from vasae_jax.lm import load_lm
from vasae_jax.utils.errors import UserError

GEMMA = dict(num_key_value_heads=2, head_dim=16, sliding_window=48, pad_token_id=0)  # noqa: C408
GGUF = {
    **{name: CONFIGS[name] for name in ("gpt2", "llama-untied", "llama-biases", "mistral")},
    **{name: CONFIGS[name] for name in ("qwen2", "qwen3", "neox")},
    "gpt2-inner-untied": fx.gpt2_config(n_inner=40, tie_word_embeddings=False),
    "neox-in-turn": transformers.GPTNeoXConfig(**SMALL, use_parallel_residual=False),
    "gemma2": transformers.Gemma2Config(
        **SMALL, **GEMMA, query_pre_attn_scalar=16,
        attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
    ),
    "gemma3": transformers.Gemma3TextConfig(
        **{**SMALL, "num_hidden_layers": 7}, **GEMMA, query_pre_attn_scalar=16,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
}  # fmt: skip
"""What a file of the family can say; no MLP bias or other nonlinearity, as none is written."""


SCALED = {
    "llama-llama3": CONFIGS["llama-llama3"],
    "llama-linear": CONFIGS["llama-linear"],
    **{
        f"{name}-linear": type(GGUF[name])(
            **{
                **GGUF[name].to_dict(),
                "rope_parameters": {
                    **GGUF[name].rope_parameters,
                    **{"rope_type": "linear", "factor": 4.0},
                },
            }
        )
        for name in ("mistral", "qwen2", "qwen3", "neox", "gemma2")
    },
}
"""Each rotary family under each scaling; Gemma 3's is linear already."""
GGUF |= SCALED


@pytest.mark.parametrize("name", GGUF)
def test_gguf_equals_torch(tmp_path, name):
    config = copy.deepcopy(GGUF[name])
    model = fx.random_model(config)
    lm = load_lm(write_gguf(model, tmp_path / "small.gguf"))
    assert lm.spec.tied == bool(config.tie_word_embeddings)
    tokens = fx.random_tokens((2, 48))
    assert_equal_to_torch(lm, model, tokens)
    error = relative(lm.logits(tokens)[None], fx.torch_logits(model, tokens)[None])
    assert error[0] <= 1e-4


def test_gemma3_says_which_layers_are_local_and_their_base(tmp_path):
    """Newer converters write both; the local base counts in local layers alone."""
    config = copy.deepcopy(GGUF["gemma3"])
    config.layer_types = ["full_attention", *["sliding_attention"] * 5, "full_attention"]
    config.rope_parameters["sliding_attention"]["rope_theta"] = 500.0
    model = fx.random_model(config)
    settings = {
        "add_sliding_window_pattern": [False, *[True] * 5, False],
        "add_rope_freq_base_swa": 500.0,
    }
    lm = load_lm(write_gguf(model, tmp_path / "small.gguf", **settings))
    assert_equal_to_torch(lm, model, fx.random_tokens((2, 48)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"add_sliding_window_pattern": [True] * 3}, "pattern .*7 layers, not 3"),
        ({"add_final_logit_softcapping": -1.0}, "final_logit_softcapping -1.0"),
        ({"add_rope_dimension_count": 8}, "dimension_count 8; .*16"),
    ],
)
def test_gemma3_settings_that_cannot_be_used(tmp_path, settings, message):
    file = write_gguf(fx.random_model(GGUF["gemma3"]), tmp_path / "small.gguf", **settings)
    with pytest.raises(UserError, match=message):
        load_lm(file)


@pytest.mark.parametrize(("layers", "scale"), [(62, (32 // 4) ** -0.5), (26, 16**-0.5)])
def test_the_largest_gemma_scales_its_scores_by_width(tmp_path, layers, scale):
    config = copy.deepcopy(GGUF["gemma3"])
    config.num_hidden_layers, config.hidden_size = layers, 32
    config.layer_types = ["full_attention"] * layers
    model = fx.random_model(config)
    assert load_lm(write_gguf(model, tmp_path / "small.gguf")).spec.score_scale == scale


def test_quantised_gguf_is_near_the_original(tmp_path):
    """Q8_0 keeps about 8 bits of each matrix: 2 percent after three blocks."""
    model = fx.random_model(fx.llama_config(hidden_size=96, intermediate_size=128))
    lm = load_lm(write_gguf(model, tmp_path / "small.gguf", quantised=True))
    tokens = fx.random_tokens((1, 16))
    errors = relative(lm.residuals(tokens, range(3)), fx.torch_residuals(model, tokens))
    assert 1e-4 < errors.max() < 0.05


def test_gguf_rope_freqs_are_divisors(tmp_path):
    """Half of them 8 slows those pairs eightfold."""
    divisors = np.float32([1, 1, 1, 1, 8, 8, 8, 8])
    file = write_gguf(fx.random_model(fx.llama_config()), tmp_path / "x.gguf", rope_freqs=divisors)
    plain = 10000.0 ** -(np.arange(8) / 8)
    actual = load_lm(file).spec.inverse_frequencies
    np.testing.assert_allclose(actual, plain / divisors, rtol=1e-6)


LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}


@pytest.mark.parametrize(
    "extra",
    [
        {"add_rope_scaling_factor": 4.0},  # llama.cpp's default type is linear
        {"add_old_factor": 4.0},
        {"add_rope_scaling_factor": 4.0, "add_rope_scaling_type": gguf.RopeScalingType.NONE},
    ],
)
def test_linear_scaling_without_a_type_and_under_its_old_key(tmp_path, monkeypatch, extra):
    def add_old_factor(writer, value):
        writer.add_float32("llama.rope.scale_linear", value)

    monkeypatch.setattr(gguf.GGUFWriter, "add_old_factor", add_old_factor, raising=False)
    scaled = "add_rope_scaling_type" not in extra
    model = fx.random_model(
        fx.llama_config(rope_parameters=LINEAR) if scaled else fx.llama_config()
    )
    plain = copy.deepcopy(model)
    plain.config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4}
    lm = load_lm(write_gguf(plain, tmp_path / "small.gguf", **extra))
    assert_equal_to_torch(lm, model, fx.random_tokens((1, 32)))


def test_a_score_scale_of_the_file_is_used(tmp_path):
    config = copy.deepcopy(GGUF["gemma2"])
    config.query_pre_attn_scalar = 40
    model = fx.random_model(config)
    lm = load_lm(write_gguf(model, tmp_path / "small.gguf", add_attention_scale=40**-0.5))
    assert_equal_to_torch(lm, model, fx.random_tokens((1, 32)))


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "gemma2"])
def test_an_untied_head_in_a_file_is_used(tmp_path, name):
    config = copy.deepcopy(GGUF[name])
    config.tie_word_embeddings = False
    model = fx.random_model(config)
    lm = load_lm(write_gguf(model, tmp_path / "small.gguf"))
    head = model.lm_head.weight.detach().numpy()
    assert not lm.spec.tied
    np.testing.assert_array_equal(lm.unembedding(), head)


def test_settings_that_change_nothing_are_accepted(tmp_path, monkeypatch):
    def add_images(writer, value):
        writer.add_uint32("llama.vision.block_count", value)

    monkeypatch.setattr(gguf.GGUFWriter, "add_images", add_images, raising=False)
    extra = {"add_vocab_size": 384, "add_causal_attention": True, "add_logit_scale": 1.0}
    extra |= {"add_images": 3}
    load_lm(write_gguf(fx.random_model(fx.llama_config()), tmp_path / "x.gguf", **extra))


@pytest.mark.parametrize(
    ("name", "extra", "key"),
    [
        ("gpt2", {"add_causal_attention": False}, "attention.causal False"),
        ("llama-untied", {"add_logit_scale": 0.5}, "logit_scale 0.5"),
        ("llama-untied", {"add_attn_logit_softcapping": 5.0}, "attn_logit_softcapping 5.0"),
        ("llama-untied", {"add_rope_scaling_type": gguf.RopeScalingType.YARN}, "'yarn'"),
        ("qwen2", {"add_final_logit_softcapping": 5.0}, "final_logit_softcapping 5.0"),
        ("qwen3", {"add_expert_count": 4}, "expert_count 4"),
        ("neox", {"add_embedding_scale": 2.0}, "embedding_scale 2.0"),
        ("neox", {"add_clamp_kqv": 8.0}, "attention.clamp_kqv 8.0"),
        ("gemma3", {"add_rope_scaling_attn_factors": 0.5}, "attn_factor 0.5"),
    ],
)
def test_settings_that_are_not_carried_are_refused(tmp_path, name, extra, key):
    file = write_gguf(fx.random_model(GGUF[name]), tmp_path / "x.gguf", **extra)
    with pytest.raises(UserError, match=key):
        load_lm(file)


@pytest.mark.parametrize("name", ["rope_factors_long.weight", "blk.0.attn_q_norm.weight"])
def test_tensors_that_would_be_ignored_are_refused(tmp_path, monkeypatch, name):
    real = gguf.GGUFWriter.write_header_to_file

    def with_tensor(writer):
        writer.add_tensor(name, np.ones(16, np.float32))
        real(writer)

    monkeypatch.setattr(gguf.GGUFWriter, "write_header_to_file", with_tensor)
    file = write_gguf(fx.random_model(fx.llama_config()), tmp_path / "small.gguf")
    with pytest.raises(UserError, match=name):
        load_lm(file)
