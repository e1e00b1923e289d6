"""The description of a model in GGUF metadata."""

from gguf import Keys

from vasae_jax.lm.architectures import UnknownArchitecture
from vasae_jax.lm.gguf_file import GgufFile
from vasae_jax.lm.gguf_gemma import gemma_spec
from vasae_jax.lm.gguf_reader import Reader
from vasae_jax.lm.hf_config import check_heads
from vasae_jax.lm.spec import Spec
from vasae_jax.system.errors import UserError

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
