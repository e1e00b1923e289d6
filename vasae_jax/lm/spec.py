"""What a decoder-only language model is made of, and the name and shape of each parameter."""

import math
from dataclasses import dataclass
from typing import Literal

from vasae_jax.utils.errors import UserError

Family = Literal["gpt2", "llama", "neox", "gemma"]
MOST_LAYERS = 10_000


def check_layers(count: int, where: str) -> int:
    """The number of layers that ``where`` states; UserError for more than any model has."""
    if count > MOST_LAYERS:
        raise UserError(f"{where} states {count:,} layers; expected at most {MOST_LAYERS:,}")
    return count


@dataclass(frozen=True)
class Spec:
    """Sizes and settings of a model, the same for every file format."""

    family: Family
    """gpt2: LayerNorm, learned positions, plain MLP; llama: RMSNorm, rotary, gated MLP; neox:
    LayerNorm, rotary, plain MLP parallel to attention; gemma: llama with norms on both sides of
    attention and MLP."""
    architecture: str
    """The checkpoint's own name for its class, such as LlamaForCausalLM."""
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    """Key and value heads; each serves n_heads / n_kv_heads query heads."""
    head_dim: int
    d_ff: int
    vocab_size: int
    """Rows of the input embedding."""
    context_length: int
    """Longest window (tokens)."""
    tied: bool
    """The head is the input embedding."""
    norm_eps: float
    activation: str
    """Hugging Face's name of the MLP's nonlinearity."""
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    inverse_frequencies: tuple[float, ...] = ()
    """Rotary angle per position of each pair (radians), at most [head_dim / 2]; dimensions beyond
    these pairs are not rotated. Empty for gpt2."""
    window: int | None = None
    """Sliding-window attention reaches this far (tokens); longer inputs are refused."""
    qk_norm: bool = False
    """Queries and keys are normalised within each head before rotation."""
    parallel: bool = False
    """Attention and MLP read the same input; otherwise the MLP reads attention's output."""
    embed_scale: float = 1.0
    """Embeddings are multiplied by this when they enter the residual stream."""
    score_scale: float | None = None
    """Attention scores are multiplied by this; None: head_dim^-0.5."""
    score_cap: float | None = None
    """Attention scores s become c tanh(s / c)."""
    logit_cap: float | None = None
    """Logits likewise."""
    local_frequencies: tuple[float, ...] = ()
    """Rotary angles of sliding-window layers, where they differ from those of global layers."""
    local_layers: tuple[bool, ...] = ()
    """For each layer whether it uses ``local_frequencies``; empty where no layer does."""

    @property
    def norm_kind(self) -> Literal["layernorm", "rmsnorm"]:
        """The kind of every normalisation layer."""
        return "layernorm" if self.family in ("gpt2", "neox") else "rmsnorm"

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate."""
        return self.family in ("llama", "gemma")


@dataclass(frozen=True)
class ParamSpec:
    """Shape of one parameter (without the layer axis) and the logical name of each axis."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    """Logical axes, one per dimension; see :data:`vasae_jax.lm.weights.MESH_AXES`."""
    input_axes: int = 0
    """How many trailing axes a matrix contracts with its input; 0 for a vector."""

    @property
    def matrix_shape(self) -> tuple[int, ...]:
        """Shape as a plain matrix [out, in] or vector, with heads folded."""
        if not self.input_axes:
            return (math.prod(self.shape),)
        out, into = self.shape[: -self.input_axes], self.shape[-self.input_axes :]
        return (math.prod(out), math.prod(into))


def model_params(spec: Spec) -> dict[str, ParamSpec]:
    """The parameters outside the blocks, by name."""
    table = ParamSpec((spec.vocab_size, spec.d_model), ("vocab", "embed"), input_axes=1)
    params = {"embed.weight": table}
    if spec.family == "gpt2":
        shape = (spec.context_length, spec.d_model)
        params["positions.weight"] = ParamSpec(shape, ("position", "embed"), input_axes=1)
    params |= _norm("final_norm", spec)
    if not spec.tied:
        params["head.weight"] = table
    return params


def block_params(spec: Spec) -> dict[str, ParamSpec]:
    """The parameters of one block, by name."""
    embed, ff, head_dim = ("embed", spec.d_model), ("ff", spec.d_ff), ("head_dim", spec.head_dim)
    heads, kv_heads = ("heads", spec.n_heads), ("kv_heads", spec.n_kv_heads)
    params = _norm("attention_norm", spec) | _norm("mlp_norm", spec)
    if spec.family == "gemma":
        params |= _norm("post_attention_norm", spec) | _norm("post_mlp_norm", spec)
    if spec.qk_norm:
        weight = ParamSpec((spec.head_dim,), ("head_dim",))
        params |= {"query_norm.weight": weight, "key_norm.weight": weight}
    params |= _linear("query", (heads, head_dim), (embed,), spec.qkv_bias)
    params |= _linear("key", (kv_heads, head_dim), (embed,), spec.qkv_bias)
    params |= _linear("value", (kv_heads, head_dim), (embed,), spec.qkv_bias)
    params |= _linear("out", (embed,), (heads, head_dim), spec.out_bias)
    for name in ("gate", "up") if spec.gated else ("up",):
        params |= _linear(name, (ff,), (embed,), spec.mlp_bias)
    return params | _linear("down", (embed,), (ff,), spec.mlp_bias)


_Axes = tuple[tuple[str, int], ...]
"""Names and sizes of axes."""


def _linear(name: str, out: _Axes, into: _Axes, bias: bool) -> dict[str, ParamSpec]:
    axes, shape = zip(*out, *into, strict=True)
    params = {f"{name}.weight": ParamSpec(shape, axes, input_axes=len(into))}
    if bias:
        params[f"{name}.bias"] = ParamSpec(shape[: len(out)], axes[: len(out)])
    return params


def _norm(name: str, spec: Spec) -> dict[str, ParamSpec]:
    vector = ParamSpec((spec.d_model,), ("embed",))
    params = {f"{name}.weight": vector}
    return params | {f"{name}.bias": vector} if spec.norm_kind == "layernorm" else params


MODEL_TYPES: dict[str, tuple[str, Family]] = {
    "gpt2": ("GPT2LMHeadModel", "gpt2"),
    "llama": ("LlamaForCausalLM", "llama"),
    "mistral": ("MistralForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "llama"),
    "qwen3": ("Qwen3ForCausalLM", "llama"),
    "gpt_neox": ("GPTNeoXForCausalLM", "neox"),
    "gemma2": ("Gemma2ForCausalLM", "gemma"),
    "gemma3_text": ("Gemma3ForCausalLM", "gemma"),
}
"""Hugging Face's architecture and the family of each ``model_type``."""
SUPPORTED: dict[str, Family] = dict(MODEL_TYPES.values())
"""Families by architecture."""


class UnknownArchitecture(UserError):
    """The architecture is not implemented in Flax here."""


def family_of(architecture: str, where: str) -> Family:
    """The family that ``architecture`` belongs to.

    Raises:
        UnknownArchitecture: it is not supported; the message names what is.
    """
    if architecture in SUPPORTED:
        return SUPPORTED[architecture]
    causal = architecture.endswith(("ForCausalLM", "LMHeadModel"))
    kind = "not a causal language model"
    if causal:
        kind = "not implemented in Flax here (vasae extract --backend torch runs any causal model)"
    raise UnknownArchitecture(
        f"{where} has architecture {architecture}, {kind}; expected one of {', '.join(SUPPORTED)}"
    )
