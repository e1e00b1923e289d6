"""The arrays of a model: how each file format stores them, and where they lie on the devices."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import gguf
import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vasae_jax.lm.gguf_config import ROPE_DIVISORS
from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.hf_weights import DirectoryTensors
from vasae_jax.lm.spec import Family, ParamSpec, Spec, block_params, model_params
from vasae_jax.utils.errors import UserError

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


MESH_AXES = {
    "batch": "data",
    "vocab": "model",
    "heads": "model",
    "kv_heads": "model",
    "ff": "model",
}
"""Mesh axis of each logical axis; other axes are never split."""


@dataclass(frozen=True)
class Placement:
    """Lays arrays out over a mesh; without a mesh all lie on the default device."""

    mesh: Mesh | None = None

    def partition(self, axes: tuple[str, ...], shape: tuple[int, ...]) -> PartitionSpec:
        """The partition of an array.

        An axis is replicated where the mesh lacks its mesh axis or does not divide it
        (such as 3 key heads on 8 devices): slower, never wrong.
        """
        return PartitionSpec(*map(self._mesh_axis, axes, shape))

    def parts(self, axis: str) -> int:
        """Into how many parts a logical axis is split where its size allows."""
        return 1 if self.mesh is None else int(self.mesh.shape.get(MESH_AXES[axis], 1))

    def put(self, host: np.ndarray, axes: tuple[str, ...]) -> jax.Array:
        """``host`` [*axes], the same on every process, as an array on the devices."""
        if self.mesh is None:
            array: jax.Array = jax.device_put(host)
            return array
        sharding = NamedSharding(self.mesh, self.partition(axes, host.shape))
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    def constrain(self, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        """``x`` with its partition fixed, inside a jitted function."""
        if self.mesh is None:
            return x
        sharding = NamedSharding(self.mesh, self.partition(axes, x.shape))
        constrained: jax.Array = jax.lax.with_sharding_constraint(x, sharding)
        return constrained

    def _mesh_axis(self, axis: str, size: int) -> str | None:
        name = MESH_AXES.get(axis)
        if self.mesh is None or name not in self.mesh.shape or size % self.mesh.shape[name]:
            return None
        return name


@dataclass(frozen=True)
class StoredTensor:
    """The tensor of a file that holds a parameter, and how its layout differs from ours."""

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
    """Added to the stored values: Gemma's norms multiply by one more than their weight."""

    def file_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the tensor that holds a parameter of matrix shape ``shape``."""
        if self.third is not None:
            shape = (3 * shape[0], *shape[1:])
        return shape[::-1] if self.transposed else shape

    def extract(self, tensor: np.ndarray, heads: int) -> np.ndarray:
        """The parameter, [out, in] or a vector, out of the file's ``tensor``.

        Args:
            tensor: of shape :meth:`file_shape`.
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


def huggingface_layout(spec: Spec) -> Mapping[str, StoredTensor]:
    """By parameter, the tensors of a Hugging Face checkpoint, without the base model's prefix."""
    return _weights_and_biases(_layout(spec.family))


def gguf_layout(spec: Spec) -> Mapping[str, StoredTensor]:
    """By parameter, the tensors of a GGUF file as llama.cpp's converter writes them.

    It stores matrices [out, in], turns thirds by head into thirds, adds Gemma's 1 to the norms,
    and makes neighbours of Llama's rotary pairs; ``spec.architecture`` is its name for the model.
    """
    names = gguf.get_tensor_name_map(_GGUF_ARCHITECTURES[spec.architecture], 1)
    layout = {}
    for key, stored in _layout(spec.family).items():
        plain = stored.name.format(layer=0)
        name = names.get_name(plain) or names.get_name(f"gpt_neox.{plain}")
        if key == "head":  # Gemma 2 has none in the library's map
            name = "output"
        if name is None:  # norms of queries and keys, of an architecture that has none
            continue
        layout[key] = StoredTensor(
            name.replace("blk.0.", "blk.{layer}."),
            third=stored.third,
            interleaved=spec.architecture == "llama" and key in ("query", "key"),
        )
    return _weights_and_biases(layout)


def _weights_and_biases(layout: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Each entry as a weight and as a bias (a bias has no [in] axis to transpose)."""
    both = {}
    for key, stored in layout.items():
        both[f"{key}.weight"] = replace(stored, name=f"{stored.name}.weight")
        both[f"{key}.bias"] = replace(stored, name=f"{stored.name}.bias", transposed=False)
    return both


_QKV = ("query", "key", "value")
_NAMES: dict[str, tuple[str | None, str | None, str | None]] = {
    "embed": ("wte", "embed_tokens", "embed_in"),
    "positions": ("wpe", None, None),
    "final_norm": ("ln_f", "norm", "final_layer_norm"),
    "head": ("lm_head", "lm_head", "embed_out"),
    "attention_norm": (".ln_1", ".input_layernorm", ".input_layernorm"),
    "query": (".attn.c_attn", ".self_attn.q_proj", ".attention.query_key_value"),
    "key": (".attn.c_attn", ".self_attn.k_proj", ".attention.query_key_value"),
    "value": (".attn.c_attn", ".self_attn.v_proj", ".attention.query_key_value"),
    "query_norm": (None, ".self_attn.q_norm", None),
    "key_norm": (None, ".self_attn.k_norm", None),
    "out": (".attn.c_proj", ".self_attn.o_proj", ".attention.dense"),
    "mlp_norm": (".ln_2", ".post_attention_layernorm", ".post_attention_layernorm"),
    "gate": (None, ".mlp.gate_proj", None),
    "up": (".mlp.c_fc", ".mlp.up_proj", ".mlp.dense_h_to_4h"),
    "down": (".mlp.c_proj", ".mlp.down_proj", ".mlp.dense_4h_to_h"),
}
"""Tensors by parameter in checkpoints of GPT-2, Llama and GPT-NeoX; names in a block begin with a
dot."""
_GEMMA_NAMES = {
    "mlp_norm": ".pre_feedforward_layernorm",
    "post_attention_norm": ".post_attention_layernorm",
    "post_mlp_norm": ".post_feedforward_layernorm",
}
"""Where Gemma differs from Llama."""


def _layout(family: Family) -> dict[str, StoredTensor]:
    column = {"gpt2": 0, "llama": 1, "gemma": 1, "neox": 2}[family]
    names = {key: row[column] for key, row in _NAMES.items()}
    names |= _GEMMA_NAMES if family == "gemma" else {}
    block = "h.{layer}" if family == "gpt2" else "layers.{layer}"
    layout = {}
    for key, name in names.items():
        if name is None:
            continue
        in_block, fused = name.startswith("."), key in _QKV and family in ("gpt2", "neox")
        layout[key] = StoredTensor(
            block + name if in_block else name,
            transposed=family == "gpt2" and in_block and not key.endswith("norm"),
            third=_QKV.index(key) if fused else None,
            by_head=fused and family == "neox",
            offset=1.0 if family == "gemma" and key.endswith("norm") else 0.0,
        )
    return layout


_GGUF_ARCHITECTURES = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}


BUFFERS = (".attn.bias", ".attention.bias", ".masked_bias", "inv_freq", "attn_rot_embd.weight")
"""Masks and angles that older checkpoints hold; both are recomputed."""


@dataclass(frozen=True)
class Checkpoint:
    """A model in files: its spec, its tensors, and which tensor holds which parameter."""

    spec: Spec
    tensors: DirectoryTensors | GgufFile
    layout: Mapping[str, StoredTensor]

    def with_stored_head(self) -> "Checkpoint":
        """The checkpoint with the head of its files, whatever its settings say, as transformers.

        A model that claims a tied head is not tied where the files hold a different one, and its
        embedding is the head where they hold the head alone.
        """
        embed, head = self.layout["embed.weight"], self.layout["head.weight"]
        if not self.spec.tied or self.tensors.shape(head.name) is None:
            return self
        if self.tensors.shape(embed.name) is None:
            return replace(self, layout={**self.layout, "embed.weight": head})
        if self.tensors.same(embed.name, head.name):
            return self
        return replace(self, spec=replace(self.spec, tied=False))

    def check(self) -> None:
        """Raise UserError, naming tensor and file, if a tensor is missing, misshapen or unused."""
        for key, param in model_params(self.spec).items():
            self._check(key, param, None)
        for key, param in block_params(self.spec).items():
            for layer in range(self.spec.n_layers):
                self._check(key, param, layer)
        self._check_unused()

    def read(self, key: str, layer: int | None = None) -> np.ndarray:
        """Parameter ``key`` (of block ``layer``) as a plain [out, in] matrix or vector."""
        stored = self.layout[key]
        heads = self.spec.n_heads if key.startswith("query") else self.spec.n_kv_heads
        return stored.extract(self.tensors.read(stored.name.format(layer=layer)), heads)

    def _check_unused(self) -> None:
        """Raise UserError if the files hold a tensor that the model would ignore."""
        layers, params = range(self.spec.n_layers), block_params(self.spec)
        used = {self.layout[key].name.format(layer=layer) for key in params for layer in layers}
        # The head is here in any case: that of a tied model may be stored, a copy of the embedding.
        used |= {self.layout[key].name for key in (*model_params(self.spec), "head.weight")}
        unused = [
            name
            for name in sorted(self.tensors.names() - used)
            if not name.endswith((*BUFFERS, ROPE_DIVISORS))
        ]
        if unused:
            more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
            raise UserError(
                f"{self.tensors.where(unused[0])} holds tensor {unused[0]}{more}, which a model "
                f"with these settings does not have ({self.spec.architecture}, "
                f"{self.spec.n_layers} layers); expected none such"
            )

    def _check(self, key: str, param: ParamSpec, layer: int | None) -> None:
        stored = self.layout[key]
        name = stored.name.format(layer=layer)
        shape, expected = self.tensors.shape(name), stored.file_shape(param.matrix_shape)
        where = self.tensors.where(name)
        if shape is None:
            raise UserError(f"{where} holds no tensor {name}; expected one of shape {expected}")
        if shape != expected:
            raise UserError(f"{where} holds tensor {name} of shape {shape}; expected {expected}")


def load_model(checkpoint: Checkpoint, dtype: str, placement: Placement) -> dict[str, jax.Array]:
    """The parameters outside the blocks, on the devices."""
    arrays = {}
    for key, param in model_params(checkpoint.spec).items():
        # A copy: the device may share host memory, which must not be a mapped file.
        host = np.array(checkpoint.read(key), dtype=_dtype(param, dtype), order="C")
        arrays[key] = placement.put(host.reshape(param.shape), param.axes)
    return arrays


def load_blocks(checkpoint: Checkpoint, dtype: str, placement: Placement) -> dict[str, jax.Array]:
    """The parameters of all blocks, stacked on a leading layer axis, on the devices.

    Host memory holds one parameter of all layers at a time.
    """
    arrays, n_layers = {}, checkpoint.spec.n_layers
    for key, param in block_params(checkpoint.spec).items():
        stack = np.empty((n_layers, *param.shape), _dtype(param, dtype))
        for layer in range(n_layers):
            stack[layer] = checkpoint.read(key, layer).reshape(param.shape)
        arrays[key] = placement.put(stack, ("layers", *param.axes))
    if checkpoint.spec.local_layers:  # a setting that differs by layer, so it is stacked too
        arrays["local"] = placement.put(np.array(checkpoint.spec.local_layers), ("layers",))
    return arrays


def _dtype(param: ParamSpec, dtype: str) -> np.dtype:
    """Vectors (norms, biases) are small and stay float32."""
    chosen: np.dtype = DTYPES[dtype if param.input_axes else "float32"]
    return chosen
