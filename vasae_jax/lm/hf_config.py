"""Reading a Hugging Face ``config.json``."""

from collections.abc import Mapping
from typing import Any

from vasae_jax.lm.architectures import family_of
from vasae_jax.lm.hf_gemma import gemma_spec
from vasae_jax.lm.hf_neox import neox_spec
from vasae_jax.lm.hf_reader import Reader, rotary
from vasae_jax.lm.layers import ACTIVATIONS
from vasae_jax.lm.spec import Spec
from vasae_jax.system.errors import UserError

_MODEL_TYPES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
}


def spec_from_config(config: Mapping[str, Any], where: str) -> Spec:
    """The model that ``config`` describes.

    Args:
        config: content of ``config.json``.
        where: that file, named in errors.

    Raises:
        UserError: an architecture or setting that is not supported, or a missing or
            unusable value; before any weight is read.
    """
    names = config.get("architectures") or [_MODEL_TYPES.get(str(config.get("model_type")))]
    if not isinstance(names, list):
        raise UserError(f"{where} has architectures {names!r}; expected a list of names")
    architecture = str(names[0] or config.get("model_type"))
    family = family_of(architecture, where)
    if config.get("quantization_config"):
        raise UserError(f"{where} describes a quantised checkpoint; expected plain weights or GGUF")
    reader = Reader(config, where)
    make = {"gpt2": _gpt2, "llama": _llama, "neox": neox_spec, "gemma": gemma_spec}[family]
    spec = make(reader, architecture)
    check_heads(spec, where)
    return spec


def check_heads(spec: Spec, where: str) -> None:
    """Raise UserError if the head counts cannot be, or the nonlinearity is unknown."""
    if spec.n_heads % spec.n_kv_heads:
        raise UserError(
            f"{where} has {spec.n_heads} query heads and {spec.n_kv_heads} key heads; "
            "expected the second to divide the first"
        )
    if spec.family in ("gpt2", "neox") and spec.n_heads * spec.head_dim != spec.d_model:
        raise UserError(
            f"{where} has width {spec.d_model} and {spec.n_heads} heads; "
            "expected the second to divide the first"
        )
    if spec.activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"{where} has activation {spec.activation!r}; expected one of {known}")


def _gpt2(reader: Reader, architecture: str) -> Spec:
    for key in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        reader.refuse(key, needed=False)
    reader.refuse("scale_attn_weights", needed=True)
    d_model, heads = reader.count("n_embd"), reader.count("n_head")
    return Spec(
        family="gpt2",
        architecture=architecture,
        n_layers=reader.count("n_layer"),
        d_model=d_model,
        n_heads=heads,
        n_kv_heads=heads,
        head_dim=max(d_model // heads, 1),
        d_ff=reader.count("n_inner", 4 * d_model),
        vocab_size=reader.count("vocab_size"),
        context_length=reader.count("n_positions"),
        tied=reader.flag("tie_word_embeddings", default=True),
        norm_eps=reader.number("layer_norm_epsilon", default=1e-5),
        activation=str(reader.config.get("activation_function", "gelu_new")),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def _llama(reader: Reader, architecture: str) -> Spec:
    qwen2, qwen3 = (architecture == f"Qwen{version}ForCausalLM" for version in (2, 3))
    d_model, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    head_dim = reader.count("head_dim", max(d_model // heads, 1))
    biased = reader.flag("attention_bias", default=False)
    return Spec(
        family="llama",
        architecture=architecture,
        n_layers=reader.count("num_hidden_layers"),
        d_model=d_model,
        n_heads=heads,
        n_kv_heads=reader.count("num_key_value_heads", heads),
        head_dim=head_dim,
        d_ff=reader.count("intermediate_size"),
        vocab_size=reader.count("vocab_size"),
        context_length=reader.count("max_position_embeddings"),
        tied=reader.flag("tie_word_embeddings", default=False),
        norm_eps=reader.number("rms_norm_eps", default=1e-6),
        activation=str(reader.config.get("hidden_act", "silu")),
        qkv_bias=biased or qwen2,
        out_bias=biased and not qwen2,
        mlp_bias=reader.flag("mlp_bias", default=False),
        inverse_frequencies=_whole_rotary(reader, head_dim),
        window=_window(reader, qwen2 or qwen3),
        qk_norm=qwen3,
    )


def _whole_rotary(reader: Reader, head_dim: int) -> tuple[float, ...]:
    """transformers 5 keeps everything in ``rope_parameters``, 4 the base outside of it."""
    scaling = reader.table("rope_parameters") or reader.table("rope_scaling")
    outside = reader.number("rope_theta", default=10000.0)
    if scaling.get("partial_rotary_factor", reader.config.get("partial_rotary_factor", 1.0)) != 1.0:
        raise UserError(f"{reader.where} rotates a part of each head; expected the whole")
    return rotary(reader, head_dim, scaling, outside)


def _window(reader: Reader, qwen: bool) -> int | None:
    used = reader.flag("use_sliding_window", default=False) if qwen else True
    if not used or reader.config.get("sliding_window") is None:
        return None
    return reader.count("sliding_window")
