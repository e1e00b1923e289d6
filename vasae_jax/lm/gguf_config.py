"""The description of a model in GGUF metadata."""

from typing import Any

import numpy as np
from gguf import Keys

from vasae_jax.lm.architectures import UnknownArchitecture
from vasae_jax.lm.gguf_file import GgufFile
from vasae_jax.lm.hf_config import check_heads
from vasae_jax.lm.rope import inverse_frequencies
from vasae_jax.lm.spec import Spec
from vasae_jax.system.errors import UserError

_ENCODERS = ("bert", "nomic-bert", "jina-bert-v2", "modern-bert")


def spec_from_gguf(file: GgufFile) -> Spec:
    """The model that the metadata of ``file`` describes.

    Raises:
        UserError: an architecture or setting that is not supported, or a missing value.
    """
    architecture = file.get(Keys.General.ARCHITECTURE)
    if architecture not in ("llama", "gpt2"):
        kind = ", an encoder without a next-token head" if architecture in _ENCODERS else ""
        raise UnknownArchitecture(
            f"{file.path} holds architecture {architecture}{kind}; expected llama or gpt2 "
            "(as a Hugging Face directory tools/extract_torch.py runs any causal model)"
        )
    reader = _Reader(file, architecture)
    spec = _gpt2(reader) if architecture == "gpt2" else _llama(reader)
    check_heads(spec, str(file.path))
    return spec


def _gpt2(reader: "_Reader") -> Spec:
    d_model = reader.count(Keys.LLM.EMBEDDING_LENGTH)
    heads = reader.count(Keys.Attention.HEAD_COUNT)
    return Spec(
        family="gpt2",
        architecture="gpt2",
        n_layers=reader.count(Keys.LLM.BLOCK_COUNT),
        d_model=d_model,
        n_heads=heads,
        n_kv_heads=heads,
        head_dim=max(d_model // heads, 1),
        d_ff=reader.count(Keys.LLM.FEED_FORWARD_LENGTH),
        vocab_size=reader.vocab_size(),
        context_length=reader.count(Keys.LLM.CONTEXT_LENGTH),
        tied=reader.tied(),
        norm_eps=reader.number(Keys.Attention.LAYERNORM_EPS),
        activation="gelu_new",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def _llama(reader: "_Reader") -> Spec:
    if reader.value(Keys.LLM.EXPERT_COUNT, 0):
        raise UserError(f"{reader.file.path} is a mixture of experts; expected a dense model")
    d_model = reader.count(Keys.LLM.EMBEDDING_LENGTH)
    heads = reader.count(Keys.Attention.HEAD_COUNT)
    head_dim = reader.count(Keys.Attention.KEY_LENGTH, max(d_model // heads, 1))
    return Spec(
        family="llama",
        architecture="llama",
        n_layers=reader.count(Keys.LLM.BLOCK_COUNT),
        d_model=d_model,
        n_heads=heads,
        n_kv_heads=reader.count(Keys.Attention.HEAD_COUNT_KV, heads),
        head_dim=head_dim,
        d_ff=reader.count(Keys.LLM.FEED_FORWARD_LENGTH),
        vocab_size=reader.vocab_size(),
        context_length=reader.count(Keys.LLM.CONTEXT_LENGTH),
        tied=reader.tied(),
        norm_eps=reader.number(Keys.Attention.LAYERNORM_RMS_EPS),
        activation="silu",
        qkv_bias=reader.file.shape("blk.0.attn_q.bias") is not None,
        out_bias=reader.file.shape("blk.0.attn_output.bias") is not None,
        mlp_bias=reader.file.shape("blk.0.ffn_up.bias") is not None,
        inverse_frequencies=_rotary(reader, head_dim),
    )


def _rotary(reader: "_Reader", head_dim: int) -> tuple[float, ...]:
    """llama.cpp stores llama3 scaling as a divisor of each frequency, tensor rope_freqs."""
    where = str(reader.file.path)
    rotated = reader.count(Keys.Rope.DIMENSION_COUNT, head_dim)
    if rotated != head_dim or head_dim % 2:
        raise UserError(f"{where} rotates {rotated} of {head_dim} in a head; expected all")
    kind = reader.value(Keys.Rope.SCALING_TYPE, "none")
    scaling = {
        "rope_type": "default" if kind == "none" else kind,
        "factor": reader.value(Keys.Rope.SCALING_FACTOR, 1.0),
    }
    theta = reader.value(Keys.Rope.FREQ_BASE, 10000.0)
    frequencies = inverse_frequencies(head_dim, float(theta), scaling, where)
    if reader.file.shape("rope_freqs.weight") is None:
        return frequencies
    divisors = reader.file.read("rope_freqs.weight")
    if divisors.shape != (len(frequencies),):
        raise UserError(
            f"{where} holds tensor rope_freqs.weight of shape {divisors.shape}; "
            f"expected ({len(frequencies)},)"
        )
    return tuple(float(value) for value in np.asarray(frequencies, np.float32) / divisors)


class _Reader:
    """Typed look-ups under the architecture's prefix; errors name file and key."""

    def __init__(self, file: GgufFile, prefix: str):
        self.file = file
        self.prefix = prefix

    def value(self, key: str, default: Any = None) -> Any:
        found = self.file.get(key.format(arch=self.prefix))
        return default if found is None else found

    def count(self, key: str, default: int | None = None) -> int:
        value = self.value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f"{self.file.path} has {key.format(arch=self.prefix)} {value!r}; "
                "expected a whole number above 0"
            )
        return value

    def number(self, key: str) -> float:
        value = self.value(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(
                f"{self.file.path} has {key.format(arch=self.prefix)} {value!r}; expected a number"
            )
        return float(value)

    def vocab_size(self) -> int:
        shape = self.file.shape("token_embd.weight")
        if shape is None:
            raise UserError(f"{self.file.path} holds no tensor token_embd.weight; expected it")
        return shape[0]

    def tied(self) -> bool:
        """No head of its own, or (older converters of GPT-2) a copy of the embedding."""
        if self.file.shape("output.weight") is None:
            return True
        return self.file.same("output.weight", "token_embd.weight")
