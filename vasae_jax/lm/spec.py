"""What a decoder-only language model is made of, and the name and shape of each parameter."""

import math
from dataclasses import dataclass
from typing import Literal

from vasae_jax.utils.errors import UserError

Family = Literal["gpt2", "llama", "neox", "gemma"]


@dataclass(frozen=True)
class Spec:
    """Everything about a model but its weights; the same whichever file it came from."""

    family: Family
    """gpt2: LayerNorm, learned positions, plain MLP; llama: RMSNorm, rotary, gated MLP; neox:
    LayerNorm, rotary, plain MLP beside attention; gemma: llama with norms on both sides."""
    architecture: str
    """The name the checkpoint gives itself, such as LlamaForCausalLM."""
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
    """Rotary angle per position of each pair (radians), at most [head_dim / 2]: the rest of a head
    is not turned; empty for gpt2."""
    window: int | None = None
    """Sliding-window attention reaches this far (tokens); longer inputs are refused."""
    qk_norm: bool = False
    """Queries and keys are normalised within each head before they are turned."""
    parallel: bool = False
    """Attention and MLP read the same row; otherwise the MLP reads what attention left."""
    embed_scale: float = 1.0
    """Embeddings are multiplied by this when they enter the stream."""
    score_scale: float | None = None
    """Attention scores are multiplied by this; None: head_dim^-0.5."""
    score_cap: float | None = None
    """Attention scores s become c tanh(s / c)."""
    logit_cap: float | None = None
    """Logits likewise."""
    local_frequencies: tuple[float, ...] = ()
    """Rotary angles of the local layers, where they have their own."""
    local_layers: tuple[bool, ...] = ()
    """Which layers are local, one a layer, where they have angles of their own."""

    @property
    def norm_kind(self) -> Literal["layernorm", "rmsnorm"]:
        """The kind of every normalisation layer."""
        return "layernorm" if self.family in ("gpt2", "neox") else "rmsnorm"

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate."""
        return self.family in ("llama", "gemma")


_QK = ("query", "key")


@dataclass(frozen=True)
class Slot:
    """One parameter: its shape (without the layer axis) and the meaning of each axis."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    """Logical axes, one a dimension; :class:`vasae_jax.lm.weights.Rules` places them."""
    inputs: int = 0
    """Trailing axes that a matrix contracts with its input; 0 for a vector."""

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape as a plain matrix [out, in] or vector, with heads folded."""
        if not self.inputs:
            return (math.prod(self.shape),)
        return (math.prod(self.shape[: -self.inputs]), math.prod(self.shape[-self.inputs :]))


def model_slots(spec: Spec) -> dict[str, Slot]:
    """The parameters outside the blocks."""
    table = Slot((spec.vocab_size, spec.d_model), ("vocab", "embed"), inputs=1)
    slots = {"embed.weight": table}
    if spec.family == "gpt2":
        shape = (spec.context_length, spec.d_model)
        slots["positions.weight"] = Slot(shape, ("position", "embed"), inputs=1)
    slots.update(_norm("final_norm", spec))
    if not spec.tied:
        slots["head.weight"] = table
    return slots


def block_slots(spec: Spec) -> dict[str, Slot]:
    """The parameters of one block."""
    heads, kv_heads = (spec.n_heads, spec.head_dim), (spec.n_kv_heads, spec.head_dim)
    d, ff = spec.d_model, spec.d_ff
    slots = {**_norm("attention_norm", spec), **_norm("mlp_norm", spec)}
    if spec.family == "gemma":
        slots |= {**_norm("attention_end_norm", spec), **_norm("mlp_end_norm", spec)}
    if spec.qk_norm:
        slots |= {f"{name}_norm.weight": Slot((spec.head_dim,), ("head_dim",)) for name in _QK}
    for name, shape, axis in (
        ("query", heads, "heads"),
        ("key", kv_heads, "kv_heads"),
        ("value", kv_heads, "kv_heads"),
    ):
        slots[f"{name}.weight"] = Slot((*shape, d), (axis, "head_dim", "embed"), inputs=1)
        if spec.qkv_bias:
            slots[f"{name}.bias"] = Slot(shape, (axis, "head_dim"))
    slots["out.weight"] = Slot((d, *heads), ("embed", "heads", "head_dim"), inputs=2)
    if spec.out_bias:
        slots["out.bias"] = Slot((d,), ("embed",))
    for name in ("gate", "up") if spec.gated else ("up",):
        slots[f"{name}.weight"] = Slot((ff, d), ("ff", "embed"), inputs=1)
        if spec.mlp_bias:
            slots[f"{name}.bias"] = Slot((ff,), ("ff",))
    slots["down.weight"] = Slot((d, ff), ("embed", "ff"), inputs=1)
    if spec.mlp_bias:
        slots["down.bias"] = Slot((d,), ("embed",))
    return slots


def _norm(name: str, spec: Spec) -> dict[str, Slot]:
    slots = {f"{name}.weight": Slot((spec.d_model,), ("embed",))}
    if spec.norm_kind == "layernorm":
        slots[f"{name}.bias"] = Slot((spec.d_model,), ("embed",))
    return slots


# Which architectures are read, and a helpful refusal of the others.


SUPPORTED: dict[str, Family] = {
    "GPT2LMHeadModel": "gpt2",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "llama",
    "Qwen3ForCausalLM": "llama",
    "GPTNeoXForCausalLM": "neox",
    "Gemma2ForCausalLM": "gemma",
    "Gemma3ForCausalLM": "gemma",
}
"""Hugging Face architectures by family."""

_ENCODERS = (
    "Albert", "Bert", "Camembert", "Deberta", "DistilBert", "Electra", "Ernie", "Longformer",
    "MPNet", "MobileBert", "ModernBert", "NomicBert", "Roberta", "XLMRoberta", "XLNet",
)  # fmt: skip
_ENCODER_DECODERS = (
    "BART", "Bart", "BlenderBot", "Blenderbot", "EncoderDecoder", "LED", "M2M100", "MBart", "MT5",
    "Marian", "Pegasus", "T5", "UMT5", "Whisper",
)  # fmt: skip
_CAUSAL = ("ForCausalLM", "LMHeadModel")


class UnknownArchitecture(UserError):
    """The architecture is not written in Flax here."""


def family_of(architecture: str, where: str) -> Family:
    """The family that reads ``architecture``.

    Raises:
        UnknownArchitecture: it is not supported; says what it is and what would read it.
    """
    if architecture in SUPPORTED:
        return SUPPORTED[architecture]
    supported = ", ".join(SUPPORTED)
    raise UnknownArchitecture(
        f"{where} holds architecture {architecture}{_kind(architecture)}; "
        f"expected one of {supported}"
    )


def _kind(architecture: str) -> str:
    if architecture.endswith(_CAUSAL):
        return ", which is not written in Flax here (tools/extract_torch.py runs any causal model)"
    if architecture.startswith(_ENCODERS):
        return ", an encoder without a next-token head"
    if architecture.startswith(_ENCODER_DECODERS):
        return ", an encoder-decoder"
    return ""
