"""From a file's tensors to the arrays of a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import gguf
import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vasae_jax.lm.spec import Slot, Spec, block_slots, model_slots
from vasae_jax.utils.errors import UserError

# Where each logical axis of a weight or activation lies on the mesh.


@dataclass(frozen=True)
class Rules:
    """Mesh axis of each logical axis; an axis without a field is never split."""

    batch: str = "data"
    vocab: str = "model"
    heads: str = "model"
    kv_heads: str = "model"
    ff: str = "model"


@dataclass(frozen=True)
class Placement:
    """A mesh with the rules; without a mesh all arrays lie on the default device."""

    mesh: Mesh | None = None
    rules: Rules = field(default_factory=Rules)

    def spec(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> PartitionSpec:
        """The partition of an array.

        An axis is replicated where the mesh lacks its mesh axis or does not divide it
        (such as 3 key heads on 8 devices): slower, never wrong.
        """
        return PartitionSpec(*map(self._mesh_axis, axes, shape))

    def parts(self, axis: str) -> int:
        """Parts that a logical axis is split into where its size allows."""
        name = getattr(self.rules, axis, None)
        return 1 if self.mesh is None else int(self.mesh.shape.get(name, 1))

    def put(self, host: np.ndarray, axes: tuple[str, ...]) -> jax.Array:
        """Place ``host`` [*axes], the same on every process, on the devices."""
        if self.mesh is None:
            placed: jax.Array = jax.device_put(host)
            return placed
        sharding = NamedSharding(self.mesh, self.spec(axes, host.shape))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    def constrain(self, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        """``x`` with its partition fixed, inside a jitted function."""
        if self.mesh is None:
            return x
        sharding = NamedSharding(self.mesh, self.spec(axes, x.shape))
        constrained: jax.Array = jax.lax.with_sharding_constraint(x, sharding)
        return constrained

    def _mesh_axis(self, axis: str, size: int) -> str | None:
        name = getattr(self.rules, axis, None)
        if self.mesh is None or name not in self.mesh.shape or size % self.mesh.shape[name]:
            return None
        return str(name)


# How each parameter is spelled and laid out in a file.


@dataclass(frozen=True)
class Piece:
    """Where a parameter lies: the name of a tensor, and how its layout differs from ours."""

    name: str
    """Tensor name; ``{layer}`` stands for the block's number."""
    transposed: bool = False
    """A matrix is stored [in, out] (GPT-2's Conv1D)."""
    third: int | None = None
    """The parameter is this third (0, 1, 2) of a fused query-key-value tensor."""
    by_head: bool = False
    """The thirds are those of each head's rows (GPT-NeoX), not of all rows."""
    interleaved: bool = False
    """Rotary pairs are neighbouring rows (llama.cpp), not half a head apart."""
    offset: float = 0.0
    """Is added to what the file holds: Gemma's norms multiply by one more than their weight."""

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the tensor that holds a parameter of stored shape ``shape``."""
        if self.third is not None:
            shape = (3 * shape[0], *shape[1:])
        return shape[::-1] if self.transposed else shape

    def extract(self, tensor: np.ndarray, heads: int) -> np.ndarray:
        """The parameter, [out, in] or a vector, out of the file's ``tensor``.

        Args:
            tensor: shape as :meth:`file_shape` says.
            heads: heads among the rows, used where pairs are interleaved or thirds a head's.
        """
        if self.transposed:
            tensor = tensor.T
        if self.third is not None and self.by_head:
            parts = tensor.reshape(heads, 3, -1, *tensor.shape[1:])[:, self.third]
            tensor = parts.reshape(-1, *tensor.shape[1:])
        elif self.third is not None:
            tensor = np.split(tensor, 3, axis=0)[self.third]
        if self.offset:
            tensor = tensor.astype(np.float32) + np.float32(self.offset)
        if self.interleaved:
            pairs = tensor.reshape(heads, -1, 2, *tensor.shape[1:])
            tensor = pairs.swapaxes(1, 2).reshape(tensor.shape)
        return tensor


def huggingface_pieces(spec: Spec) -> Mapping[str, Piece]:
    """Pieces of a Hugging Face checkpoint; names are without the base model's prefix."""
    return _affine(_TABLES[spec.family])


def gguf_pieces(spec: Spec) -> Mapping[str, Piece]:
    """Pieces of a GGUF file as llama.cpp's converter writes them.

    It lays matrices out [out, in], turns thirds by head into thirds, adds Gemma's 1 to the norms,
    and makes neighbours of Llama's rotary pairs; ``spec.architecture`` is its name for the model.
    """
    names = gguf.get_tensor_name_map(_ARCHITECTURES[spec.architecture], 1)
    pieces = {}
    for key, piece in _TABLES[spec.family].items():
        plain = piece.name.format(layer=0)
        name = names.get_name(plain) or names.get_name(f"gpt_neox.{plain}")
        if name is None:  # norms of queries and keys, of an architecture that has none
            continue
        pieces[key] = replace(
            piece,
            name=name.replace("blk.0.", "blk.{layer}."),
            transposed=False,
            by_head=False,
            offset=0.0,
            interleaved=spec.architecture == "llama" and key in ("query", "key"),
        )
    return _affine(pieces)


def _affine(table: Mapping[str, Piece]) -> dict[str, Piece]:
    """Each entry as a weight and as a bias (a bias has no [in] axis to transpose)."""
    pieces = {}
    for key, piece in table.items():
        pieces[f"{key}.weight"] = replace(piece, name=f"{piece.name}.weight")
        pieces[f"{key}.bias"] = replace(piece, name=f"{piece.name}.bias", transposed=False)
    return pieces


_HF_GPT2 = {
    "embed": Piece("wte"),
    "positions": Piece("wpe"),
    "final_norm": Piece("ln_f"),
    "head": Piece("lm_head"),
    "attention_norm": Piece("h.{layer}.ln_1"),
    "query": Piece("h.{layer}.attn.c_attn", transposed=True, third=0),
    "key": Piece("h.{layer}.attn.c_attn", transposed=True, third=1),
    "value": Piece("h.{layer}.attn.c_attn", transposed=True, third=2),
    "out": Piece("h.{layer}.attn.c_proj", transposed=True),
    "mlp_norm": Piece("h.{layer}.ln_2"),
    "up": Piece("h.{layer}.mlp.c_fc", transposed=True),
    "down": Piece("h.{layer}.mlp.c_proj", transposed=True),
}
_HF_LLAMA = {
    "embed": Piece("embed_tokens"),
    "final_norm": Piece("norm"),
    "head": Piece("lm_head"),
    "attention_norm": Piece("layers.{layer}.input_layernorm"),
    "query": Piece("layers.{layer}.self_attn.q_proj"),
    "key": Piece("layers.{layer}.self_attn.k_proj"),
    "value": Piece("layers.{layer}.self_attn.v_proj"),
    "out": Piece("layers.{layer}.self_attn.o_proj"),
    "mlp_norm": Piece("layers.{layer}.post_attention_layernorm"),
    "query_norm": Piece("layers.{layer}.self_attn.q_norm"),
    "key_norm": Piece("layers.{layer}.self_attn.k_norm"),
    "gate": Piece("layers.{layer}.mlp.gate_proj"),
    "up": Piece("layers.{layer}.mlp.up_proj"),
    "down": Piece("layers.{layer}.mlp.down_proj"),
}
_HF_GEMMA = {
    **_HF_LLAMA,
    "final_norm": Piece("norm", offset=1.0),
    "attention_norm": Piece("layers.{layer}.input_layernorm", offset=1.0),
    "attention_end_norm": Piece("layers.{layer}.post_attention_layernorm", offset=1.0),
    "mlp_norm": Piece("layers.{layer}.pre_feedforward_layernorm", offset=1.0),
    "mlp_end_norm": Piece("layers.{layer}.post_feedforward_layernorm", offset=1.0),
    "query_norm": Piece("layers.{layer}.self_attn.q_norm", offset=1.0),
    "key_norm": Piece("layers.{layer}.self_attn.k_norm", offset=1.0),
}
_HF_NEOX = {
    "embed": Piece("embed_in"),
    "final_norm": Piece("final_layer_norm"),
    "head": Piece("embed_out"),
    "attention_norm": Piece("layers.{layer}.input_layernorm"),
    **{
        name: Piece("layers.{layer}.attention.query_key_value", third=third, by_head=True)
        for third, name in enumerate(("query", "key", "value"))
    },
    "out": Piece("layers.{layer}.attention.dense"),
    "mlp_norm": Piece("layers.{layer}.post_attention_layernorm"),
    "up": Piece("layers.{layer}.mlp.dense_h_to_4h"),
    "down": Piece("layers.{layer}.mlp.dense_4h_to_h"),
}
_TABLES = {"gpt2": _HF_GPT2, "llama": _HF_LLAMA, "neox": _HF_NEOX, "gemma": _HF_GEMMA}
_ARCHITECTURES = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}


DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


class Tensors(Protocol):
    """Named tensors in one or more files."""

    files: tuple[Path, ...]

    def where(self, name: str) -> str:
        """The file that holds, or should hold, tensor ``name``."""
        ...

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Row-major shape of a tensor, None if there is no such tensor."""
        ...

    def read(self, name: str) -> np.ndarray:
        """The tensor in a floating-point dtype; raises UserError if it cannot be read."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A model in files: its description, its tensors, and how the two correspond."""

    spec: Spec
    tensors: Tensors
    pieces: Mapping[str, Piece]

    def check(self) -> None:
        """Raise UserError, naming tensor and file, if a tensor is missing or misshapen."""
        for key, slot in model_slots(self.spec).items():
            self._check(key, slot, None)
        for key, slot in block_slots(self.spec).items():
            for layer in range(self.spec.n_layers):
                self._check(key, slot, layer)

    def read(self, key: str, layer: int | None = None) -> np.ndarray:
        """Parameter ``key`` (of block ``layer``) as a plain [out, in] matrix or vector."""
        piece = self.pieces[key]
        heads = self.spec.n_heads if key.startswith("query") else self.spec.n_kv_heads
        return piece.extract(self.tensors.read(piece.name.format(layer=layer)), heads)

    def _check(self, key: str, slot: Slot, layer: int | None) -> None:
        piece = self.pieces[key]
        name = piece.name.format(layer=layer)
        found, expected = self.tensors.shape(name), piece.file_shape(slot.stored_shape)
        where = self.tensors.where(name)
        if found is None:
            raise UserError(f"{where} holds no tensor {name}; expected one of shape {expected}")
        if found != expected:
            raise UserError(f"{where} holds tensor {name} of shape {found}; expected {expected}")


def load_model(checkpoint: Checkpoint, dtype: str, placement: Placement) -> dict[str, jax.Array]:
    """The parameters outside the blocks, on the devices."""
    arrays = {}
    for key, slot in model_slots(checkpoint.spec).items():
        # A copy: the device may share host memory, which must not be a mapped file.
        host = np.array(checkpoint.read(key), dtype=_dtype(slot, dtype), order="C")
        arrays[key] = placement.put(host.reshape(slot.shape), slot.axes)
    return arrays


def load_blocks(checkpoint: Checkpoint, dtype: str, placement: Placement) -> dict[str, jax.Array]:
    """The parameters of all blocks, stacked on a leading layer axis, on the devices.

    One parameter of all layers at a time is held in host memory.
    """
    arrays = {}
    for key, slot in block_slots(checkpoint.spec).items():
        n_layers = checkpoint.spec.n_layers
        stack = np.empty((n_layers, *slot.shape), _dtype(slot, dtype))
        for layer in range(n_layers):
            stack[layer] = checkpoint.read(key, layer).reshape(slot.shape)
        arrays[key] = placement.put(stack, ("layers", *slot.axes))
    if checkpoint.spec.local_layers:  # no weights, but a layer's own like them
        arrays["local"] = placement.put(np.array(checkpoint.spec.local_layers), ("layers",))
    return arrays


def _dtype(slot: Slot, dtype: str) -> np.dtype:
    """Vectors (norms, biases) are few and stay float32."""
    found: np.dtype = DTYPES[dtype if slot.inputs else "float32"]
    return found
