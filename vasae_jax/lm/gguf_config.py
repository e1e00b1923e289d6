"""The description of a model in GGUF metadata."""

from gguf import Keys

from vasae_jax.lm.gguf_reader import GgufFile, Reader
from vasae_jax.lm.hf_config import check_heads
from vasae_jax.lm.rope import inverse_frequencies
from vasae_jax.lm.spec import Spec, UnknownArchitecture
from vasae_jax.utils.errors import UserError

# Gemma 2 and Gemma 3 (text) in GGUF metadata.
#
# Some settings are not in the file. llama.cpp knows them by architecture and number of layers,
# and so are they here.


LARGEST = {"gemma2": 46, "gemma3": 62}
"""Layers of the 27B models, whose scores are scaled by width over heads, not by head size."""
PATTERN, LOCAL_THETA = 6, 10000.0
"""Of Gemma 3: every so-manieth layer is global, and the rotary base of the others."""
LOCAL_BASE = "{arch}.rope.freq_base_swa"
"""Written by newer converters; named in ``gguf.Keys`` from 0.19 on."""


def gemma_spec(reader: Reader) -> Spec:
    """The model that the file describes; UserError for a setting that is not supported."""
    second = reader.prefix == "gemma2"
    sizes = reader.sizes()
    n_layers, d_model, heads = sizes["n_layers"], sizes["d_model"], sizes["n_heads"]
    head_dim = reader.count(Keys.Attention.KEY_LENGTH)
    large = n_layers == LARGEST[reader.prefix]
    window = reader.value(Keys.Attention.SLIDING_WINDOW, 4096 if second else None)
    local = () if second or not window else _local_layers(reader, n_layers)
    return Spec(
        family="gemma",
        **sizes,
        n_kv_heads=reader.count(Keys.Attention.HEAD_COUNT_KV, heads),
        head_dim=head_dim,
        tied=second or reader.tied(),  # llama.cpp reads no head of Gemma 2
        norm_eps=reader.number(Keys.Attention.LAYERNORM_RMS_EPS),
        activation="gelu_pytorch_tanh",
        inverse_frequencies=reader.rotary(reader.turned(head_dim, whole=True)),
        window=reader.count(Keys.Attention.SLIDING_WINDOW, 4096) if window else None,
        qk_norm=not second,
        embed_scale=d_model**0.5,
        score_scale=(max(d_model // heads, 1) if large else head_dim) ** -0.5,
        score_cap=_cap(reader, Keys.LLM.ATTN_LOGIT_SOFTCAPPING, 50.0 if second else 0.0),
        logit_cap=_cap(reader, Keys.LLM.FINAL_LOGIT_SOFTCAPPING, 30.0 if second else 0.0),
        local_frequencies=_local_rotary(reader, head_dim) if local else (),
        local_layers=local,
    )


def _cap(reader: Reader, key: str, default: float) -> float | None:
    """A cap above 0; 0 stands for none."""
    value = reader.number(key, default)
    if value < 0:
        raise UserError(
            f"{reader.file.path} has {key.format(arch=reader.prefix)} {value}; expected 0 or more"
        )
    return value or None


def _local_rotary(reader: Reader, head_dim: int) -> tuple[float, ...]:
    """Angles of local layers, which no scaling changes."""
    theta = reader.number(LOCAL_BASE, LOCAL_THETA)
    where = str(reader.file.path)
    return inverse_frequencies(head_dim, theta, {"rope_type": "default"}, where)


def _local_layers(reader: Reader, n_layers: int) -> tuple[bool, ...]:
    """Which layers are local: a flag for each, or all but every n-th."""
    key = Keys.Attention.SLIDING_WINDOW_PATTERN
    pattern = reader.value(key, PATTERN)
    if not isinstance(pattern, list):
        every = reader.count(key, PATTERN)
        return tuple(bool((layer + 1) % every) for layer in range(n_layers))
    if len(pattern) != n_layers:
        raise UserError(
            f"{reader.file.path} has {key.format(arch=reader.prefix)} of {len(pattern)} layers; "
            f"expected {n_layers}"
        )
    return tuple(bool(local) for local in pattern)


_ENCODERS = ("bert", "nomic-bert", "jina-bert-v2", "modern-bert")


def spec_from_gguf(file: GgufFile) -> Spec:
    """The model that the metadata of ``file`` describes.

    Raises:
        UserError: an architecture or setting that is not supported, or a missing value.
    """
    architecture = file.get(Keys.General.ARCHITECTURE)
    if architecture not in _MAKERS:
        kind = ", an encoder without a next-token head" if architecture in _ENCODERS else ""
        raise UnknownArchitecture(
            f"{file.path} holds architecture {architecture}{kind}; expected one of "
            f"{', '.join(_MAKERS)} (tools/extract_torch.py runs any causal model that "
            "transformers reads: its Hugging Face directory, or such a file)"
        )
    spec = _MAKERS[architecture](Reader(file, architecture))
    check_heads(spec, str(file.path))
    return spec


def _gpt2(reader: Reader) -> Spec:
    sizes = reader.sizes()
    d_model, heads = sizes["d_model"], sizes["n_heads"]
    return Spec(
        family="gpt2",
        **sizes,
        n_kv_heads=heads,
        head_dim=max(d_model // heads, 1),
        tied=reader.tied(),
        norm_eps=reader.number(Keys.Attention.LAYERNORM_EPS),
        activation="gelu_new",
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
    )


def _llama(reader: Reader) -> Spec:
    """Llama, Mistral (whose files say llama), Qwen 2 and 3; biases are seen by their tensors."""
    if reader.value(Keys.LLM.EXPERT_COUNT, 0):
        raise UserError(f"{reader.file.path} is a mixture of experts; expected a dense model")
    sizes = reader.sizes()
    d_model, heads = sizes["d_model"], sizes["n_heads"]
    head_dim = reader.count(Keys.Attention.KEY_LENGTH, max(d_model // heads, 1))
    return Spec(
        family="llama",
        **sizes,
        n_kv_heads=reader.count(Keys.Attention.HEAD_COUNT_KV, heads),
        head_dim=head_dim,
        tied=reader.tied(),
        norm_eps=reader.number(Keys.Attention.LAYERNORM_RMS_EPS),
        activation="silu",
        qkv_bias=reader.has("blk.0.attn_q.bias"),
        out_bias=reader.has("blk.0.attn_output.bias"),
        mlp_bias=reader.has("blk.0.ffn_up.bias"),
        inverse_frequencies=reader.rotary(reader.turned(head_dim, whole=True)),
        qk_norm=reader.prefix == "qwen3",
    )


def _neox(reader: Reader) -> Spec:
    """GPT-NeoX. The file does not say which GELU; Pythia's is the exact one."""
    sizes = reader.sizes()
    d_model, heads = sizes["d_model"], sizes["n_heads"]
    head_dim = max(d_model // heads, 1)
    biased = reader.has("blk.0.attn_qkv.bias")
    return Spec(
        family="neox",
        **sizes,
        n_kv_heads=heads,
        head_dim=head_dim,
        tied=reader.tied(),
        norm_eps=reader.number(Keys.Attention.LAYERNORM_EPS),
        activation="gelu",
        qkv_bias=biased,
        out_bias=biased,
        mlp_bias=True,
        inverse_frequencies=reader.rotary(reader.turned(head_dim, whole=False)),
        parallel=bool(reader.value(Keys.LLM.USE_PARALLEL_RESIDUAL, True)),
    )


_MAKERS = {
    "llama": _llama,
    "gpt2": _gpt2,
    "qwen2": _llama,
    "qwen3": _llama,
    "gptneox": _neox,
    "gemma2": gemma_spec,
    "gemma3": gemma_spec,
}
"""Architectures by llama.cpp's names."""
