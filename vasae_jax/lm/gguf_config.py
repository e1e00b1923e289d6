"""The :class:`~vasae_jax.lm.spec.Spec` of GGUF metadata."""

from typing import Any

import numpy as np
from gguf import Keys

from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.hf_config import MAX_HEAD_DIM, ConfigReader, check_heads
from vasae_jax.lm.rope import inverse_frequencies
from vasae_jax.lm.spec import Spec, UnknownArchitecture, check_layers
from vasae_jax.utils.errors import UserError

# llama.cpp knows these settings of Gemma by architecture and number of layers.
_LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose scores are scaled by width over heads, not by head size."""
_GLOBAL_EVERY, _LOCAL_THETA = 6, 10000.0
"""Gemma 3: every so many layers one is global; the rotary base of the others."""
_OLD_FACTOR_KEY = "{arch}.rope.scale_linear"
ROPE_DIVISORS = "rope_freqs.weight"
_LOCAL_THETA_KEY = "{arch}.rope.freq_base_swa"
"""Written by newer converters; named in ``gguf.Keys`` from 0.19 on."""
_LOCAL_SIZE_KEYS = (
    "{arch}.rope.dimension_count_swa",
    "{arch}.attention.key_length_swa",
    "{arch}.attention.value_length_swa",
)

_IRRELEVANT = {
    "vocab_size",  # the embedding has it
    "tensor_data_layout",
    "expert_used_count",  # no experts: expert_count is read
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",  # of scalings that are refused
    "attention.sliding_window_pattern",  # longer inputs are refused; Gemma 3 reads it
}
"""Settings that change no row of a text."""
_IMAGES = ("vision.", "mm.", "mm_")
"""Prefixes of settings for images."""
_NEUTRAL = {
    "attention.causal": True,
    "attention.max_alibi_bias": 0.0,
    "attention.clamp_kqv": 0.0,
    "expert_count": 0,
    "logit_scale": 1.0,
    "embedding_scale": 1.0,
    "residual_scale": 1.0,
    "rope.scaling.attn_factor": 1.0,
    "attn_logit_softcapping": 0.0,
    "final_logit_softcapping": 0.0,
}
"""Values that mean that the setting is not used."""


class MetadataReader(ConfigReader):
    """Typed look-ups in GGUF metadata, by keys with a place for the architecture's name."""

    def __init__(self, file: GgufFile, architecture: str):
        super().__init__({}, str(file.path))
        self.file = file
        self.architecture = architecture
        self._keys_read: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, or ``default``."""
        name = key.format(arch=self.architecture)
        self._keys_read.add(name)
        value = self.file.get(name)
        return default if value is None else value

    def refuse_unread(self) -> None:
        """Raise UserError for a setting of the architecture that nothing has read.

        Settings that change no row are left out, and those with the one value that changes none.
        """
        for name in self.file.metadata_keys():
            key = name.removeprefix(f"{self.architecture}.")
            irrelevant = key in _IRRELEVANT or key.startswith(_IMAGES)
            if key == name or name in self._keys_read or irrelevant:
                continue
            value = self.file.get(name)
            if key not in _NEUTRAL or value != _NEUTRAL[key]:
                expected = f"{_NEUTRAL[key]}" if key in _NEUTRAL else "no such setting"
                value = value[:8] if isinstance(value, list) else value
                raise super().error(name, value, f"{expected}, as nothing else is supported")

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
            "(vasae extract --backend torch runs any causal model that transformers reads: its "
            "Hugging Face directory, or such a file)"
        )
    reader = MetadataReader(file, architecture)
    spec = _MAKERS[architecture](reader)
    reader.refuse_unread()
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
    sizes["n_kv_heads"] = sizes["n_heads"]
    sizes["head_dim"] = max(sizes["d_model"] // sizes["n_heads"], 1)
    return sizes | {"norm_eps": reader.number(Keys.Attention.LAYERNORM_EPS), "mlp_bias": True}


def _rmsnorm_sizes(reader: MetadataReader) -> dict[str, Any]:
    """What Llama's family and Gemma have alike."""
    sizes = _sizes(reader)
    sizes["n_kv_heads"] = reader.count(Keys.Attention.HEAD_COUNT_KV, sizes["n_heads"])
    return sizes | {"norm_eps": reader.number(Keys.Attention.LAYERNORM_RMS_EPS)}


def _gpt2(reader: MetadataReader) -> Spec:
    sizes = _layernorm_sizes(reader)
    return Spec(family="gpt2", **sizes, activation="gelu_new", qkv_bias=True, out_bias=True)


def _neox(reader: MetadataReader) -> Spec:
    """GPT-NeoX. The file does not name the GELU: GPT-NeoX-20B's is approximate, Pythia's exact."""
    sizes, biased = _layernorm_sizes(reader), reader.has("blk.0.attn_qkv.bias")
    approximate = (sizes["n_layers"], sizes["d_model"]) == (44, 6144)
    rotary_dim = _rotary_dim(reader, sizes["head_dim"], partial=True)
    return Spec(
        family="neox",
        **sizes,
        activation="gelu_fast" if approximate else "gelu",
        qkv_bias=biased,
        out_bias=biased,
        inverse_frequencies=_rotary(reader, rotary_dim, 10000.0),
        parallel=reader.flag(Keys.LLM.USE_PARALLEL_RESIDUAL, default=None),
    )


def _llama(reader: MetadataReader) -> Spec:
    """Llama, Mistral (whose files say llama), Qwen 2 and 3; a bias is there if its tensor is."""
    sizes = _rmsnorm_sizes(reader)
    head_dim = _head_dim(reader, max(sizes["d_model"] // sizes["n_heads"], 1))
    theta = 10000.0 if reader.architecture == "llama" else None
    windowed = reader.get(Keys.Attention.SLIDING_WINDOW)
    return Spec(
        family="llama",
        **sizes,
        head_dim=head_dim,
        activation="silu",
        qkv_bias=reader.has("blk.0.attn_q.bias"),
        out_bias=reader.has("blk.0.attn_output.bias"),
        mlp_bias=reader.has("blk.0.ffn_up.bias"),
        inverse_frequencies=_rotary(reader, _rotary_dim(reader, head_dim), theta),
        window=reader.count(Keys.Attention.SLIDING_WINDOW) if windowed else None,
        qk_norm=reader.architecture == "qwen3",
        score_scale=_positive(reader, Keys.Attention.SCALE),
    )


def _gemma(reader: MetadataReader) -> Spec:
    """Gemma 2 and Gemma 3 (text)."""
    second = reader.architecture == "gemma2"
    sizes = _rmsnorm_sizes(reader)
    n_layers, d_model = sizes["n_layers"], sizes["d_model"]
    head_dim = _head_dim(reader, None)
    large = n_layers == _LARGEST_GEMMA[reader.architecture]
    scale = (max(d_model // sizes["n_heads"], 1) if large else head_dim) ** -0.5
    theta = 10000.0 if second else None
    local = () if second else _local_layers(reader, n_layers)
    local_theta = _LOCAL_THETA if second else reader.number(_LOCAL_THETA_KEY, _LOCAL_THETA)
    for key in _LOCAL_SIZE_KEYS:
        if reader.count(key, head_dim) != head_dim:
            raise reader.error(key, reader.get(key), f"{head_dim}, as of global layers")
    local_frequencies = inverse_frequencies(head_dim, local_theta, {}, reader.where)
    return Spec(
        family="gemma",
        **sizes,
        head_dim=head_dim,
        activation="gelu_pytorch_tanh",
        inverse_frequencies=_rotary(reader, _rotary_dim(reader, head_dim), theta),
        window=reader.count(Keys.Attention.SLIDING_WINDOW, 4096 if second else None),
        qk_norm=not second,
        embed_scale=d_model**0.5,
        score_scale=_positive(reader, Keys.Attention.SCALE) or scale,
        score_cap=_positive(reader, Keys.LLM.ATTN_LOGIT_SOFTCAPPING, 50.0 if second else 0.0),
        logit_cap=_positive(reader, Keys.LLM.FINAL_LOGIT_SOFTCAPPING, 30.0 if second else 0.0),
        # Scaling is for global layers alone.
        local_frequencies=local_frequencies if local else (),
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
ARCHITECTURES = tuple(_MAKERS)
"""Those that are read in full here."""


def _head_dim(reader: MetadataReader, default: int | None) -> int:
    """The size of a head, which keys and values must share."""
    head_dim = reader.count(Keys.Attention.KEY_LENGTH, default)
    if reader.count(Keys.Attention.VALUE_LENGTH, head_dim) != head_dim:
        value = reader.get(Keys.Attention.VALUE_LENGTH)
        raise reader.error(Keys.Attention.VALUE_LENGTH, value, f"{head_dim}, as of keys")
    return head_dim


def _positive(reader: MetadataReader, key: str, default: float = 0.0) -> float | None:
    """A number above 0, such as a cap of scores; 0 means none."""
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
        count = check_layers(n_layers, reader.where)
        return tuple(bool((layer + 1) % every) for layer in range(count))
    if len(pattern) != n_layers:
        raise reader.error(key, pattern[:8], f"{n_layers} layers, not {len(pattern)}")
    return tuple(bool(local) for local in pattern)


def _rotary_dim(reader: MetadataReader, head_dim: int, *, partial: bool = False) -> int:
    """How many dimensions of a head are rotated: all, or with ``partial`` any even number."""
    key = Keys.Rope.DIMENSION_COUNT
    dim = reader.count(key, None if partial else head_dim)
    if dim % 2 or dim > min(head_dim, MAX_HEAD_DIM) or (not partial and dim < head_dim):
        expected = f"an even number, at most {head_dim}" if partial else f"all {head_dim} of a head"
        raise reader.error(key, dim, expected)
    return dim


def _rotary(reader: MetadataReader, rotary_dim: int, theta: float | None) -> tuple[float, ...]:
    """Angles of the first ``rotary_dim`` dimensions of a head; ``theta`` is the default base.

    llama.cpp stores llama3 scaling as a divisor of each frequency, tensor rope_freqs. Scaling is
    linear where its type is missing; files of 2023 have its factor under another key.
    """
    factor = reader.number(Keys.Rope.SCALING_FACTOR, reader.number(_OLD_FACTOR_KEY, 1.0))
    kind = reader.get(Keys.Rope.SCALING_TYPE, "linear")
    scaling = {"rope_type": "default" if kind == "none" else kind, "factor": factor or 1.0}
    base = reader.number(Keys.Rope.FREQ_BASE, theta)
    frequencies = inverse_frequencies(rotary_dim, base, scaling, reader.where)
    if not reader.has(ROPE_DIVISORS):
        return frequencies
    divisors = reader.file.read(ROPE_DIVISORS)
    if divisors.shape != (len(frequencies),):
        raise UserError(
            f"{reader.where} holds tensor {ROPE_DIVISORS} of shape {divisors.shape}; "
            f"expected ({len(frequencies)},)"
        )
    return tuple((np.asarray(frequencies, np.float32) / divisors).tolist())
