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


def test_gguf_rope_freqs_is_llama3_scaling(tmp_path):
    """llama.cpp writes the scaling as one divisor a pair; half of them 8 slows those eightfold."""
    model = fx.random_model(fx.llama_config())
    real, extra = gguf.GGUFWriter.write_header_to_file, np.float32([1, 1, 1, 1, 8, 8, 8, 8])
    with pytest.MonkeyPatch.context() as patch:

        def with_freqs(writer):
            writer.add_tensor("rope_freqs.weight", extra)
            real(writer)

        patch.setattr(gguf.GGUFWriter, "write_header_to_file", with_freqs)
        lm = load_lm(write_gguf(model, tmp_path / "small.gguf"))
    plain = 10000.0 ** -(np.arange(8) / 8)
    np.testing.assert_allclose(lm.spec.inverse_frequencies, plain / extra, rtol=1e-6)
