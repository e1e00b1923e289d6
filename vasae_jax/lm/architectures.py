"""Which architectures are read, and a helpful refusal of the others."""

from vasae_jax.lm.spec import Family
from vasae_jax.system.errors import UserError

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
