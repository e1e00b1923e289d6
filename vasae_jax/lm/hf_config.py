"""The :class:`~vasae_jax.lm.spec.Spec` of a Hugging Face ``config.json``."""

from collections.abc import Mapping
from typing import Any

from vasae_jax.lm.layers import ACTIVATIONS
from vasae_jax.lm.rope import inverse_frequencies
from vasae_jax.lm.spec import MODEL_TYPES, Spec, check_layers, family_of
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.streams import note

MAX_HEAD_DIM = 2**16
"""Larger than any real head: bounds the arrays that a corrupt file can ask for."""


def spec_from_config(config: Mapping[str, Any], where: str) -> Spec:
    """The model that ``config`` describes.

    Args:
        config: content of ``config.json``.
        where: that file, named in errors.

    Raises:
        UserError: an architecture or setting that is not supported, or a missing or
            unusable value; before any weight is read.
    """
    architecture, _ = MODEL_TYPES.get(str(config.get("model_type")), (None, None))
    names = architectures(config, where) or [architecture]
    architecture = str(names[0] or config.get("model_type"))
    family = family_of(architecture, where)
    if config.get("quantization_config"):
        raise UserError(f"{where} describes a quantised checkpoint; expected plain weights or GGUF")
    reader = ConfigReader(config, where)
    reader.require("is_causal", True)
    reader.require("use_bidirectional_attention", False)
    make = {"gpt2": _gpt2, "llama": _llama, "neox": _neox, "gemma": _gemma}[family]
    spec = make(reader, architecture)
    check_heads(spec, where)
    return spec


def architectures(config: Mapping[str, Any], where: str) -> list[Any]:
    """The names of a model's classes, which may be none; raises UserError for another value."""
    names = config.get("architectures") or []
    if not isinstance(names, list):
        raise UserError(f"{where} has architectures {names!r:.60}; expected a list of names")
    return names


def note_auto_map(config: Mapping[str, Any], where: str) -> None:
    """Say on stderr if a model has Python code of its own, which is never run."""
    if config.get("auto_map"):
        name = (architectures(config, where) or [config.get("model_type")])[0]
        note(f"{where} has auto_map: its own code is not run, and {name} is computed as published")


def check_heads(spec: Spec, where: str) -> None:
    """Raise UserError if the numbers of heads do not fit, or the nonlinearity is unknown."""
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


class ConfigReader:
    """Typed look-ups in a ``config.json``; their errors name file, key and value."""

    def __init__(self, config: Mapping[str, Any], where: str):
        self.config = config
        self.where = where

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, which may be null; ``default`` where it is absent."""
        return self.config.get(key, default)

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number above 0; null counts as absent."""
        value = self.get(key, default)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.error(key, value, "a whole number above 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, value, "a number")
        return float(value)

    def cap(self, key: str, *, default: float | None) -> float | None:
        """A number above 0, or null."""
        if self.get(key, default) is None:
            return None
        value = self.number(key, default=0.0 if default is None else default)
        if value <= 0:
            raise self.error(key, value, "a number above 0")
        return value

    def table(self, key: str) -> dict[str, Any]:
        """An object, empty where there is none."""
        value = self.get(key) or {}
        if not isinstance(value, dict):
            raise self.error(key, value, "an object")
        return value

    def flag(self, key: str, *, default: bool | None) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, value, "true or false")
        return value

    def require(self, key: str, required: bool) -> None:
        """Raise UserError unless a flag is absent, null or has the one supported value."""
        if self.get(key) is not None and self.flag(key, default=required) != required:
            raise self.error(key, not required, f"{required} (nothing else is supported)")

    def error(self, key: str, value: object, expected: str) -> UserError:
        """The error of an unusable value."""
        return UserError(f"{self.where} has {key} {value!r}; expected {expected}")


def _sizes(reader: ConfigReader, architecture: str, **defaults: int) -> dict[str, Any]:
    """The sizes that Llama's family, GPT-NeoX and Gemma name alike, by field of Spec."""
    keys = {
        "n_layers": "num_hidden_layers",
        "d_model": "hidden_size",
        "n_heads": "num_attention_heads",
        "d_ff": "intermediate_size",
        "vocab_size": "vocab_size",
        "context_length": "max_position_embeddings",
    }
    sizes = {field: reader.count(key, defaults.get(field)) for field, key in keys.items()}
    return {"architecture": architecture, **sizes}


def _gpt2(reader: ConfigReader, architecture: str) -> Spec:
    reader.require("scale_attn_by_inverse_layer_idx", False)
    reader.require("add_cross_attention", False)
    reader.require("scale_attn_weights", True)
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
        activation=str(reader.get("activation_function", "gelu_new")),
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


_DEFAULT_KV_HEADS = {"MistralForCausalLM": 8, "Qwen2ForCausalLM": 32, "Qwen3ForCausalLM": 32}


def _llama(reader: ConfigReader, architecture: str) -> Spec:
    qwen2, qwen3 = (architecture == f"Qwen{version}ForCausalLM" for version in (2, 3))
    sizes = _sizes(reader, architecture)
    heads = sizes["n_heads"]
    head_dim = reader.count("head_dim", 128 if qwen3 else max(sizes["d_model"] // heads, 1))
    biased = reader.flag("attention_bias", default=False)
    scaling = _rope_scaling(reader)
    part = scaling.get("partial_rotary_factor", reader.get("partial_rotary_factor", 1.0))
    if part != 1.0:
        raise reader.error("partial_rotary_factor", part, "1.0: whole heads are rotated")
    # What transformers' configurations take where the file lacks a key; null means something else.
    absent = "num_key_value_heads" not in reader.config
    kv_heads = _DEFAULT_KV_HEADS.get(architecture, heads) if absent else heads
    default_window = None if architecture == "LlamaForCausalLM" else 4096
    windowed = not (qwen2 or qwen3) or reader.flag("use_sliding_window", default=False)
    windowed = windowed and reader.get("sliding_window", default_window) is not None
    return Spec(
        family="llama",
        **sizes,
        n_kv_heads=reader.count("num_key_value_heads", kv_heads),
        head_dim=head_dim,
        tied=reader.flag("tie_word_embeddings", default=False),
        norm_eps=reader.number("rms_norm_eps", default=1e-6),
        activation=str(reader.get("hidden_act", "silu")),
        qkv_bias=biased or qwen2,
        out_bias=biased and not qwen2,
        mlp_bias=reader.flag("mlp_bias", default=False),
        inverse_frequencies=_rotary(reader, head_dim, scaling, "rope_theta"),
        window=reader.count("sliding_window", default_window) if windowed else None,
        qk_norm=qwen3,
    )


def _neox(reader: ConfigReader, architecture: str) -> Spec:
    """GPT-NeoX (Pythia): the first part of each head is rotated."""
    sizes = _sizes(reader, architecture)
    head_dim = max(sizes["d_model"] // sizes["n_heads"], 1)
    biased = reader.flag("attention_bias", default=True)
    scaling = _rope_scaling(reader)
    part = reader.number("rotary_pct", default=0.25)  # transformers 4 has it outside of scaling
    part = ConfigReader(scaling, reader.where).number("partial_rotary_factor", default=part)
    if not 0 < part <= 1:
        raise reader.error("rotary_pct", part, "above 0, up to 1")
    return Spec(
        family="neox",
        **sizes,
        n_kv_heads=sizes["n_heads"],
        head_dim=head_dim,
        tied=reader.flag("tie_word_embeddings", default=False),
        norm_eps=reader.number("layer_norm_eps", default=1e-5),
        activation=str(reader.get("hidden_act", "gelu")),
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=True,
        inverse_frequencies=_rotary(reader, int(head_dim * part), scaling, "rotary_emb_base"),
        parallel=reader.flag("use_parallel_residual", default=True),
    )


def _gemma(reader: ConfigReader, architecture: str) -> Spec:
    """Gemma 2 and Gemma 3 (text).

    Some of their layers attend within a sliding window. Longer inputs than that window are
    refused, so those layers differ in their rotary angles alone, and only in Gemma 3.
    """
    third = architecture == "Gemma3ForCausalLM"
    defaults = {"vocab_size": 256_000, "context_length": 8192, "n_heads": 8}
    if third:
        defaults |= {"vocab_size": 262_208, "context_length": 131_072}
    sizes = _sizes(reader, architecture, **defaults)
    head_dim = reader.count("head_dim", 256)
    biased = reader.flag("attention_bias", default=False)
    scaling, theta = _rope_scaling(reader), 10000.0
    local: dict[str, Any] = {}
    if third:  # rope_parameters are by kind of layer; transformers 4 has other keys
        by_kind = reader.table("rope_parameters")
        scaling = by_kind.get("full_attention") or reader.table("rope_scaling")
        local, theta = by_kind.get("sliding_attention") or {}, 1_000_000.0
    windowed = reader.get("sliding_window", 4096) is not None
    return Spec(
        family="gemma",
        **sizes,
        n_kv_heads=reader.count("num_key_value_heads", 4),
        head_dim=head_dim,
        tied=reader.flag("tie_word_embeddings", default=True),
        norm_eps=reader.number("rms_norm_eps", default=1e-6),
        # Gemma 2's first files have the exact GELU under hidden_act and mean the tanh form.
        activation=str(reader.get("hidden_activation") or "gelu_pytorch_tanh"),
        qkv_bias=biased,
        out_bias=biased,
        inverse_frequencies=_rotary(reader, head_dim, scaling, "rope_theta", theta),
        window=reader.count("sliding_window", 4096) if windowed else None,
        qk_norm=third,
        embed_scale=sizes["d_model"] ** 0.5,
        score_scale=reader.number("query_pre_attn_scalar", default=256) ** -0.5,
        score_cap=reader.cap("attn_logit_softcapping", default=None if third else 50.0),
        logit_cap=reader.cap("final_logit_softcapping", default=None if third else 30.0),
        local_frequencies=_rotary(reader, head_dim, local, "rope_local_base_freq") if third else (),
        local_layers=_local_layers(reader, sizes["n_layers"]) if third else (),
    )


def _local_layers(reader: ConfigReader, n_layers: int) -> tuple[bool, ...]:
    """Which layers are local: as ``layer_types`` says, or all but every n-th."""
    kinds = reader.get("layer_types")
    if kinds is None:
        every = reader.count("sliding_window_pattern", 6)
        count = check_layers(n_layers, reader.where)
        return tuple(bool((layer + 1) % every) for layer in range(count))
    known = {"sliding_attention", "full_attention"}
    if not isinstance(kinds, list) or len(kinds) != n_layers or not known >= set(map(str, kinds)):
        expected = f"{n_layers} of sliding_attention and full_attention"
        raise reader.error("layer_types", str(kinds)[:60], expected)
    return tuple(kind == "sliding_attention" for kind in kinds)


def _rope_scaling(reader: ConfigReader) -> dict[str, Any]:
    """Rotary settings: all of them under transformers 5, all but the base under 4."""
    return reader.table("rope_parameters") or reader.table("rope_scaling")


def _rotary(
    reader: ConfigReader,
    rotary_dim: int,
    scaling: Mapping[str, Any],
    theta_key: str,
    theta: float = 10000.0,
) -> tuple[float, ...]:
    """Angles of the first ``rotary_dim`` dimensions; see :func:`inverse_frequencies`.

    The base is ``rope_theta`` in ``scaling``, else ``theta_key`` in the config, else ``theta``.

    Raises:
        UserError: an odd number, an unknown scaling or an unusable setting.
    """
    if rotary_dim % 2 or not 0 < rotary_dim <= MAX_HEAD_DIM:
        raise UserError(
            f"{reader.where} has heads of size {rotary_dim}; expected an even number up to "
            f"{MAX_HEAD_DIM}"
        )
    outside = reader.number(theta_key, default=theta)
    base = ConfigReader(scaling, reader.where).number("rope_theta", default=outside)
    return inverse_frequencies(rotary_dim, base, scaling, reader.where)
