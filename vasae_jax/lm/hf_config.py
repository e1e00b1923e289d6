"""Reading a Hugging Face ``config.json``."""

from collections.abc import Mapping
from typing import Any

from vasae_jax.lm.layers import ACTIVATIONS
from vasae_jax.lm.rope import inverse_frequencies
from vasae_jax.lm.spec import Spec, family_of
from vasae_jax.utils.errors import UserError

# Typed look-ups in a ``config.json``.


LARGEST_HEAD = 2**16
"""Above any head that there is: a file may not make us count to what it says."""


class Reader:
    """Typed look-ups that name the file and the key when a value cannot be used."""

    def __init__(self, config: Mapping[str, Any], where: str):
        self.config = config
        self.where = where

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self.config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{self.where} has {key} {value!r}; expected a whole number above 0")
        return value

    def number(self, key: str, *, default: float) -> float:
        """A number."""
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{self.where} has {key} {value!r}; expected a number")
        return float(value)

    def cap(self, key: str, *, default: float | None) -> float | None:
        """A number above 0, or null."""
        if self.config.get(key, default) is None:
            return None
        value = self.number(key, default=0.0 if default is None else default)
        if value <= 0:
            raise UserError(f"{self.where} has {key} {value!r}; expected a number above 0")
        return value

    def table(self, key: str) -> dict[str, Any]:
        """An object, empty where there is none."""
        value = self.config.get(key) or {}
        if not isinstance(value, dict):
            raise UserError(f"{self.where} has {key} {value!r}; expected an object")
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.where} has {key} {value!r}; expected true or false")
        return value

    def refuse(self, key: str, *, needed: bool) -> None:
        """Raise UserError unless a flag is as it must be (and is where it is not given)."""
        if self.flag(key, default=needed) != needed:
            raise UserError(
                f"{self.where} has {key} {not needed}, which is not supported; expected {needed}"
            )


def rotary(
    reader: Reader, turned: int, scaling: Mapping[str, Any], theta: float
) -> tuple[float, ...]:
    """Angles of the ``turned`` first numbers of a head; see :func:`inverse_frequencies`.

    ``theta`` is the base where ``scaling`` does not have it.

    Raises:
        UserError: an odd number, an unknown scaling or a setting that cannot be used.
    """
    if turned % 2 or not 0 < turned <= LARGEST_HEAD:
        raise UserError(
            f"{reader.where} has heads of size {turned}; expected an even number up to "
            f"{LARGEST_HEAD}"
        )
    base = Reader(scaling, reader.where).number("rope_theta", default=theta)
    return inverse_frequencies(turned, base, scaling, reader.where)


# Gemma 2 and Gemma 3 (text) from their ``config.json``.
#
# Some of their layers attend within a sliding window. Windows of text are no longer than that
# (longer ones are refused), so those layers differ in their rotary angles alone, and only in
# Gemma 3.


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


# GPT-NeoX (Pythia) from its ``config.json``.


def neox_spec(reader: Reader, architecture: str) -> Spec:
    """The model that the file describes; UserError for a setting that is not supported."""
    d_model, heads = reader.count("hidden_size"), reader.count("num_attention_heads")
    head_dim = max(d_model // heads, 1)
    biased = reader.flag("attention_bias", default=True)
    return Spec(
        family="neox",
        architecture=architecture,
        n_layers=reader.count("num_hidden_layers"),
        d_model=d_model,
        n_heads=heads,
        n_kv_heads=heads,
        head_dim=head_dim,
        d_ff=reader.count("intermediate_size"),
        vocab_size=reader.count("vocab_size"),
        context_length=reader.count("max_position_embeddings"),
        tied=reader.flag("tie_word_embeddings", default=False),
        norm_eps=reader.number("layer_norm_eps", default=1e-5),
        activation=str(reader.config.get("hidden_act", "gelu")),
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=True,
        inverse_frequencies=_rotary(reader, head_dim),
        parallel=reader.flag("use_parallel_residual", default=True),
    )


def _rotary(reader: Reader, head_dim: int) -> tuple[float, ...]:
    """The first part of a head is turned; transformers 4 has base and part under older names."""
    scaling = reader.table("rope_parameters") or reader.table("rope_scaling")
    part = reader.number("rotary_pct", default=0.25)
    part = Reader(scaling, reader.where).number("partial_rotary_factor", default=part)
    if not 0 < part <= 1:
        raise UserError(f"{reader.where} rotates {part} of a head; expected over 0, up to 1")
    theta = reader.number("rotary_emb_base", default=10000.0)
    return rotary(reader, int(head_dim * part), scaling, theta)


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
