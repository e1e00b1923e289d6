"""A language model of transformers before its weights are read: files, sizes and tokenizer."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.gguf_tokenizer import tokenizer_from_gguf
from vasae_jax.lm.tokenizer import Tokenizer, tokenizer_from_directory
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.files import sha256_bytes, sha256_file
from vasae_jax.utils.hub import find_model

SETTINGS = ["*.json", "*.model", "merges.txt", "vocab.txt"]
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class Spec:
    """The sizes of a model that another library runs."""

    family: str
    """Hugging Face's model type."""
    n_layers: int
    d_model: int
    vocab_size: int
    context_length: int | None
    """Longest window (tokens); None where the model states no limit."""
    tied: bool


class HfModel:
    """The files, sizes and tokenizer of a causal language model, without its weights.

    Args:
        source: a Hugging Face directory, a .gguf file or a hub name.
        computed: how the model will be run, in words.

    Attributes:
        path: the directory or .gguf file.
        id: hub name, or the name of the directory or file.
        revision: commit on the hub, None for local files.
        config: the transformers configuration.
        spec: the model's sizes.
        tokenizer: its tokenizer.

    Raises:
        UserError: no such model, one that is not a causal language model, or an unusable
            tokenizer.
    """

    def __init__(self, source: str, computed: str) -> None:
        files = find_model(source, [*SETTINGS, WEIGHTS[0]])
        if files[2] and not list(files[0].glob(WEIGHTS[0])):
            files = find_model(source, [*SETTINGS, WEIGHTS[1]])
        self.path, self.id, self.revision = files
        self.computed = computed
        self.config = self._read_config()
        sizes = self.config.get_text_config()
        limits = (getattr(sizes, name, None) for name in ("max_position_embeddings", "max_seq_len"))
        self.spec = Spec(
            family=sizes.model_type,
            n_layers=sizes.num_hidden_layers,
            d_model=sizes.hidden_size,
            vocab_size=sizes.vocab_size,
            context_length=next((length for length in limits if length), None),
            tied=bool(getattr(self.config, "tie_word_embeddings", True)),
        )
        self.tokenizer = self._read_tokenizer()

    @property
    def gguf(self) -> bool:
        """Whether the model is one GGUF file."""
        return self.path.suffix == ".gguf"

    def arguments(self) -> tuple[str, dict[str, Any]]:
        """The place and the options for transformers' ``from_pretrained``."""
        if self.gguf:
            return str(self.path.parent), {"gguf_file": self.path.name}
        return str(self.path), {}

    def weight_files(self) -> list[Path]:
        """The weight files, sorted by name; raises UserError if there are none."""
        if self.gguf:
            return [self.path]
        for pattern in WEIGHTS:
            if files := sorted(self.path.glob(pattern)):
                return files
        raise UserError(f"{self.path} holds no weights; expected {' or '.join(WEIGHTS)}")

    @functools.cached_property
    def source_digest(self) -> str:
        """SHA-256 over the digests of the weight files, in the order of their names."""
        return sha256_bytes("".join(map(sha256_file, self.weight_files())).encode())

    def _read_config(self) -> Any:
        import transformers
        from transformers.models.auto import modeling_auto

        place, options = self.arguments()
        try:
            config = transformers.AutoConfig.from_pretrained(place, **options)
        except Exception as error:  # the library raises many kinds
            raise UserError(
                f"{self.path} holds no model that transformers {transformers.__version__} knows "
                f"({first_line(error)}); expected config.json of a causal language model"
            ) from error
        kind = ""
        if getattr(config, "is_encoder_decoder", False):
            kind = "an encoder-decoder"
        elif config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            kind = "" if getattr(config, "is_decoder", False) else "an encoder"
        elif config.model_type not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            kind = "not a causal language model"
        if kind:
            name = (getattr(config, "architectures", None) or [type(config).__name__])[0]
            raise UserError(
                f"{self.id} holds {name}, {kind}; expected a causal language model "
                "(GPT-2, Llama, GPT-NeoX, OPT, Gemma, Qwen and others)"
            )
        return config

    def _read_tokenizer(self) -> Tokenizer:
        """The tokenizer, as :func:`vasae_jax.lm.load_lm` would read it."""
        if self.gguf:
            return tokenizer_from_gguf(GgufFile(self.path), self.spec.vocab_size)
        return tokenizer_from_directory(self.path, self.config.to_dict(), self.spec.vocab_size)
