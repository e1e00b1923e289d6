"""Gemma 2 and Gemma 3 (text) from their ``config.json``.

Some of their layers attend within a sliding window. Windows of text are no longer than that
(longer ones are refused), so those layers differ in their rotary angles alone, and only in
Gemma 3.
"""

from typing import Any

from vasae_jax.lm.hf_reader import Reader, rotary
from vasae_jax.lm.spec import Spec
from vasae_jax.system.errors import UserError

GLOBAL_THETA, LOCAL_THETA = 1_000_000.0, 10_000.0
"""Gemma 3's rotary bases where its file has none."""


def gemma_spec(reader: Reader, architecture: str) -> Spec:
    """The model that the file describes; UserError for a setting that is not supported."""
    third = architecture == "Gemma3ForCausalLM"
    if reader.config.get("use_bidirectional_attention"):
        raise UserError(f"{reader.where} attends to later tokens; expected a causal model")
    d_model = reader.count("hidden_size")
    heads = reader.count("num_attention_heads", 8)
    n_layers, head_dim = reader.count("num_hidden_layers"), reader.count("head_dim", 256)
    biased = reader.flag("attention_bias", default=False)
    read_angles = _gemma3_rotary if third else _gemma2_rotary
    angles, local_angles = read_angles(reader, head_dim)
    windowed = reader.config.get("sliding_window", 4096) is not None
    return Spec(
        family="gemma",
        architecture=architecture,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=heads,
        n_kv_heads=reader.count("num_key_value_heads", 4),
        head_dim=head_dim,
        d_ff=reader.count("intermediate_size"),
        vocab_size=reader.count("vocab_size", 262_208 if third else 256_000),
        context_length=reader.count("max_position_embeddings", 131_072 if third else 8192),
        tied=reader.flag("tie_word_embeddings", default=True),
        norm_eps=reader.number("rms_norm_eps", default=1e-6),
        activation=_activation(reader),
        qkv_bias=biased,
        out_bias=biased,
        inverse_frequencies=angles,
        window=reader.count("sliding_window", 4096) if windowed else None,
        qk_norm=third,
        embed_scale=d_model**0.5,
        score_scale=reader.number("query_pre_attn_scalar", default=256) ** -0.5,
        score_cap=reader.cap("attn_logit_softcapping", default=None if third else 50.0),
        logit_cap=reader.cap("final_logit_softcapping", default=None if third else 30.0),
        local_frequencies=local_angles,
        local_layers=_local_layers(reader, n_layers) if third else (),
    )


def _activation(reader: Reader) -> str:
    """Gemma 2's first files have the exact GELU under an older key and mean the tanh form."""
    return str(reader.config.get("hidden_activation") or "gelu_pytorch_tanh")


def _gemma2_rotary(reader: Reader, head_dim: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Angles of all layers; local ones have none of their own."""
    scaling = reader.table("rope_parameters") or reader.table("rope_scaling")
    return rotary(reader, head_dim, scaling, reader.number("rope_theta", default=10000.0)), ()


def _gemma3_rotary(reader: Reader, head_dim: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Angles of global and of local layers; transformers 4 has them under older names."""
    both = reader.table("rope_parameters")
    scaling: dict[str, Any] = both.get("full_attention") or reader.table("rope_scaling")
    local: dict[str, Any] = both.get("sliding_attention") or {}
    theta = reader.number("rope_theta", default=GLOBAL_THETA)
    local_theta = reader.number("rope_local_base_freq", default=LOCAL_THETA)
    return rotary(reader, head_dim, scaling, theta), rotary(reader, head_dim, local, local_theta)


def _local_layers(reader: Reader, n_layers: int) -> tuple[bool, ...]:
    """Which layers are local: as ``layer_types`` says, or all but every n-th."""
    kinds = reader.config.get("layer_types")
    if kinds is None:
        every = reader.count("sliding_window_pattern", 6)
        return tuple(bool((layer + 1) % every) for layer in range(n_layers))
    known = {"sliding_attention", "full_attention"}
    if not isinstance(kinds, list) or len(kinds) != n_layers or not known >= set(map(str, kinds)):
        raise UserError(
            f"{reader.where} has layer_types {str(kinds)[:60]}; expected {n_layers} of "
            "sliding_attention and full_attention"
        )
    return tuple(kind == "sliding_attention" for kind in kinds)
