"""What a decoder-only language model is made of, and the name and shape of each parameter."""

import math
from dataclasses import dataclass
from typing import Literal

Family = Literal["gpt2", "llama"]


@dataclass(frozen=True)
class Spec:
    """Everything about a model but its weights; the same whichever file it came from."""

    family: Family
    """gpt2: LayerNorm, learned positions, plain MLP; llama: RMSNorm, rotary, gated MLP."""
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
    """Rotary angle per position of each pair (radians) [head_dim / 2]; empty for gpt2."""
    window: int | None = None
    """Sliding-window attention reaches this far (tokens); longer inputs are refused."""

    @property
    def norm_kind(self) -> Literal["layernorm", "rmsnorm"]:
        """The kind of every normalisation layer."""
        return "layernorm" if self.family == "gpt2" else "rmsnorm"


@dataclass(frozen=True)
class Slot:
    """One parameter: its shape (without the layer axis) and the meaning of each axis."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    """Logical axes, one a dimension; :class:`vasae_jax.lm.rules.Rules` places them."""
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
    for name in ("up",) if spec.family == "gpt2" else ("gate", "up"):
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
