"""The :class:`~vasae_jax.lm.spec.Spec` of GGUF metadata."""

from typing import Any

import numpy as np
from gguf import Keys

from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.hf_config import MAX_HEAD_DIM, ConfigReader, check_heads
from vasae_jax.lm.rope import inverse_frequencies
from vasae_jax.lm.spec import Spec, UnknownArchitecture
from vasae_jax.utils.errors import UserError

# llama.cpp knows these settings of Gemma by architecture and number of layers.
_LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose scores are scaled by width over heads, not by head size."""
_GLOBAL_EVERY, _LOCAL_THETA = 6, 10000.0
"""Gemma 3: every so many layers one is global; the rotary base of the others."""
_LOCAL_THETA_KEY = "{arch}.rope.freq_base_swa"
"""Written by newer converters; named in ``gguf.Keys`` from 0.19 on."""


class MetadataReader(ConfigReader):
    """Typed look-ups in GGUF metadata, by keys with a place for the architecture's name."""

    def __init__(self, file: GgufFile, architecture: str):
        super().__init__({}, str(file.path))
        self.file = file
        self.architecture = architecture

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, or ``default``."""
        value = self.file.get(key.format(arch=self.architecture))
        return default if value is None else value

    def error(self, key: str, value: object, expected: str) -> UserError:
        """The error of an unusable value."""
        return super().error(key.format(arch=self.architecture), value, expected)

    def has(self, tensor: str) -> bool:
        """Whether the file holds ``tensor``."""
        return self.file.shape(tensor) is not None


def spec_from_gguf(file: GgufFile) -> Spec:
    """The model that the metadata of ``file`` describes.

    Raises:
        UserError: an architecture or setting that is not supported, or a missing value.
    """
    architecture = file.get(Keys.General.ARCHITECTURE)
    if architecture not in _MAKERS:
        raise UnknownArchitecture(
            f"{file.path} has architecture {architecture}; expected one of {', '.join(_MAKERS)} "
            "(tools/extract_torch.py runs any causal model that transformers reads: its Hugging "
            "Face directory, or such a file)"
        )
    spec = _MAKERS[architecture](MetadataReader(file, architecture))
    check_heads(spec, str(file.path))
    return spec


def _sizes(reader: MetadataReader) -> dict[str, Any]:
    """What all families' files say alike, by field of Spec."""
    table = reader.file.shape("token_embd.weight")
    if table is None:
        raise UserError(f"{reader.where} holds no tensor token_embd.weight; expected it")
    # Older converters of GPT-2 write a tied head as a copy of the embedding.
    file = reader.file
    tied = not reader.has("output.weight") or file.same("output.weight", "token_embd.weight")
    return {
        "architecture": reader.architecture,
        "n_layers": reader.count(Keys.LLM.BLOCK_COUNT),
        "d_model": reader.count(Keys.LLM.EMBEDDING_LENGTH),
        "n_heads": reader.count(Keys.Attention.HEAD_COUNT),
        "d_ff": reader.count(Keys.LLM.FEED_FORWARD_LENGTH),
        "vocab_size": table[0],
        "context_length": reader.count(Keys.LLM.CONTEXT_LENGTH),
        "tied": tied,
    }


def _layernorm_sizes(reader: MetadataReader) -> dict[str, Any]:
    """What GPT-2 and GPT-NeoX have alike."""
    sizes = _sizes(reader)
    return sizes | {
        "n_kv_heads": sizes["n_heads"],
        "head_dim": max(sizes["d_model"] // sizes["n_heads"], 1),
        "norm_eps": reader.number(Keys.Attention.LAYERNORM_EPS),
        "mlp_bias": True,
    }


def _rmsnorm_sizes(reader: MetadataReader) -> dict[str, Any]:
    """What Llama's family and Gemma have alike."""
    sizes = _sizes(reader)
    return sizes | {
        "n_kv_heads": reader.count(Keys.Attention.HEAD_COUNT_KV, sizes["n_heads"]),
        "norm_eps": reader.number(Keys.Attention.LAYERNORM_RMS_EPS),
    }


def _gpt2(reader: MetadataReader) -> Spec:
    sizes = _layernorm_sizes(reader)
    return Spec(family="gpt2", **sizes, activation="gelu_new", qkv_bias=True, out_bias=True)


def _neox(reader: MetadataReader) -> Spec:
    """GPT-NeoX. The file does not say which GELU; Pythia's is the exact one."""
    sizes, biased = _layernorm_sizes(reader), reader.has("blk.0.attn_qkv.bias")
    return Spec(
        family="neox",
        **sizes,
        activation="gelu",
        qkv_bias=biased,
        out_bias=biased,
        inverse_frequencies=_rotary(reader, _rotary_dim(reader, sizes["head_dim"], partial=True)),
        parallel=bool(reader.get(Keys.LLM.USE_PARALLEL_RESIDUAL, True)),
    )


def _llama(reader: MetadataReader) -> Spec:
    """Llama, Mistral (whose files say llama), Qwen 2 and 3; a bias is there if its tensor is."""
    if reader.get(Keys.LLM.EXPERT_COUNT, 0):
        raise UserError(f"{reader.where} is a mixture of experts; expected a dense model")
    sizes = _rmsnorm_sizes(reader)
    head_dim = reader.count(Keys.Attention.KEY_LENGTH, max(sizes["d_model"] // sizes["n_heads"], 1))
    return Spec(
        family="llama",
        **sizes,
        head_dim=head_dim,
        activation="silu",
        qkv_bias=reader.has("blk.0.attn_q.bias"),
        out_bias=reader.has("blk.0.attn_output.bias"),
        mlp_bias=reader.has("blk.0.ffn_up.bias"),
        inverse_frequencies=_rotary(reader, _rotary_dim(reader, head_dim)),
        qk_norm=reader.architecture == "qwen3",
    )


def _gemma(reader: MetadataReader) -> Spec:
    """Gemma 2 and Gemma 3 (text)."""
    second = reader.architecture == "gemma2"
    sizes = _rmsnorm_sizes(reader)
    n_layers, d_model = sizes["n_layers"], sizes["d_model"]
    sizes["tied"] = second or sizes["tied"]  # llama.cpp reads no head of Gemma 2
    head_dim = reader.count(Keys.Attention.KEY_LENGTH)
    large = n_layers == _LARGEST_GEMMA[reader.architecture]
    windowed = reader.get(Keys.Attention.SLIDING_WINDOW, 4096 if second else None)
    local = () if second or not windowed else _local_layers(reader, n_layers)
    local_theta = reader.number(_LOCAL_THETA_KEY, _LOCAL_THETA)
    return Spec(
        family="gemma",
        **sizes,
        head_dim=head_dim,
        activation="gelu_pytorch_tanh",
        inverse_frequencies=_rotary(reader, _rotary_dim(reader, head_dim)),
        window=reader.count(Keys.Attention.SLIDING_WINDOW, 4096) if windowed else None,
        qk_norm=not second,
        embed_scale=d_model**0.5,
        score_scale=(max(d_model // sizes["n_heads"], 1) if large else head_dim) ** -0.5,
        score_cap=_cap(reader, Keys.LLM.ATTN_LOGIT_SOFTCAPPING, 50.0 if second else 0.0),
        logit_cap=_cap(reader, Keys.LLM.FINAL_LOGIT_SOFTCAPPING, 30.0 if second else 0.0),
        # Scaling is for global layers alone.
        local_frequencies=(
            inverse_frequencies(head_dim, local_theta, {}, reader.where) if local else ()
        ),
        local_layers=local,
    )


_MAKERS = {
    "llama": _llama,
    "gpt2": _gpt2,
    "qwen2": _llama,
    "qwen3": _llama,
    "gptneox": _neox,
    "gemma2": _gemma,
    "gemma3": _gemma,
}
"""Architectures by llama.cpp's names."""


def _cap(reader: MetadataReader, key: str, default: float) -> float | None:
    """A cap above 0; 0 means none."""
    value = reader.number(key, default)
    if value < 0:
        raise reader.error(key, value, "0 or more")
    return value or None


def _local_layers(reader: MetadataReader, n_layers: int) -> tuple[bool, ...]:
    """Which layers are local: a flag for each, or all but every n-th."""
    key = Keys.Attention.SLIDING_WINDOW_PATTERN
    pattern = reader.get(key, _GLOBAL_EVERY)
    if not isinstance(pattern, list):
        every = reader.count(key, _GLOBAL_EVERY)
        return tuple(bool((layer + 1) % every) for layer in range(n_layers))
    if len(pattern) != n_layers:
        raise reader.error(key, pattern[:8], f"{n_layers} layers, not {len(pattern)}")
    return tuple(bool(local) for local in pattern)


def _rotary_dim(reader: MetadataReader, head_dim: int, *, partial: bool = False) -> int:
    """How many dimensions of a head are rotated: all, or with ``partial`` any even number."""
    key = Keys.Rope.DIMENSION_COUNT
    dim = reader.count(key, head_dim)
    if dim % 2 or dim > min(head_dim, MAX_HEAD_DIM) or (not partial and dim < head_dim):
        expected = f"an even number, at most {head_dim}" if partial else f"all {head_dim} of a head"
        raise reader.error(key, dim, expected)
    return dim


def _rotary(reader: MetadataReader, rotary_dim: int) -> tuple[float, ...]:
    """Angles of the first ``rotary_dim`` dimensions of a head.

    llama.cpp stores llama3 scaling as a divisor of each frequency, tensor rope_freqs.
    """
    where = reader.where
    kind = reader.get(Keys.Rope.SCALING_TYPE, "none")
    scaling = {
        "rope_type": "default" if kind == "none" else kind,
        "factor": reader.get(Keys.Rope.SCALING_FACTOR, 1.0),
    }
    theta = reader.number(Keys.Rope.FREQ_BASE, 10000.0)
    frequencies = inverse_frequencies(rotary_dim, theta, scaling, where)
    if not reader.has("rope_freqs.weight"):
        return frequencies
    divisors = reader.file.read("rope_freqs.weight")
    if divisors.shape != (len(frequencies),):
        raise UserError(
            f"{where} holds tensor rope_freqs.weight of shape {divisors.shape}; "
            f"expected ({len(frequencies)},)"
        )
    return tuple((np.asarray(frequencies, np.float32) / divisors).tolist())
