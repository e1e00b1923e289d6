"""The files of a Hugging Face model: its settings and tokenizer, without reading weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.gguf_tokenizer import tokenizer_from_gguf
from vasae_jax.lm.tokenizer import Tokenizer, tokenizer_from_directory
from vasae_jax.utils import hub
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.files import sha256_bytes, sha256_file

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


@dataclass(frozen=True)
class Source:
    """A model's files: a Hugging Face directory or a GGUF file, and their origin."""

    path: Path
    id: str
    revision: str | None

    @property
    def gguf(self) -> bool:
        """Whether the model is one GGUF file."""
        return self.path.suffix == ".gguf"

    def config(self) -> Any:
        """The model's transformers configuration; raises UserError naming the file."""
        import transformers

        place, options = self.arguments()
        try:
            return transformers.AutoConfig.from_pretrained(place, **options)
        except Exception as error:  # the library raises many kinds
            raise UserError(
                f"{self.path} holds no model that transformers {transformers.__version__} knows "
                f"({first_line(error)}); expected config.json of a causal language model"
            ) from error

    def arguments(self) -> tuple[str, dict[str, Any]]:
        """The arguments of transformers' ``from_pretrained``: a place and options."""
        if self.gguf:
            return str(self.path.parent), {"gguf_file": self.path.name}
        return str(self.path), {}

    def tokenizer(self, config: Any, vocab_size: int) -> Tokenizer:
        """The model's tokenizer, as :func:`vasae_jax.lm.load_lm` would read it."""
        if self.gguf:
            return tokenizer_from_gguf(GgufFile(self.path), vocab_size)
        return tokenizer_from_directory(self.path, config.to_dict(), vocab_size)

    def weight_files(self) -> list[Path]:
        """The weight files, sorted by name; raises UserError if there are none."""
        if self.gguf:
            return [self.path]
        for pattern in WEIGHTS:
            if files := sorted(self.path.glob(pattern)):
                return files
        raise UserError(f"{self.path} holds no weights; expected {' or '.join(WEIGHTS)}")

    def digest(self) -> str:
        """SHA-256 over the digests of the weight files, in the order of their names."""
        return sha256_bytes("".join(map(sha256_file, self.weight_files())).encode())


def locate(source: str) -> Source:
    """A local directory, a .gguf file, or else a name on the Hugging Face hub, downloaded.

    Raises:
        UserError: no such path, or the hub does not have it or cannot be reached.
    """
    files = Source(*hub.find_model(source, [*SETTINGS, WEIGHTS[0]]))
    if files.revision and not list(files.path.glob(WEIGHTS[0])):
        files = Source(*hub.find_model(source, [*SETTINGS, WEIGHTS[1]]))
    return files


def causal_config(source: Source) -> Any:
    """The text settings of a causal language model.

    Raises:
        UserError: the architecture is an encoder, an encoder-decoder or not a language
            model, named in the sentence.
    """
    from transformers.models.auto import modeling_auto

    config = source.config()
    name = (getattr(config, "architectures", None) or [type(config).__name__])[0]
    kind = ""
    if getattr(config, "is_encoder_decoder", False):
        kind = "an encoder-decoder"
    elif config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        kind = "" if getattr(config, "is_decoder", False) else "an encoder"
    elif config.model_type not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        kind = "not a causal language model"
    if kind:
        raise UserError(
            f"{source.id} holds {name}, {kind}; expected a causal language model "
            "(GPT-2, Llama, GPT-NeoX, OPT, Gemma, Qwen and others)"
        )
    return config


def spec_of(config: Any) -> Spec:
    """The sizes in a transformers configuration."""
    text = config.get_text_config()
    lengths = (getattr(text, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return Spec(
        family=text.model_type,
        n_layers=text.num_hidden_layers,
        d_model=text.hidden_size,
        vocab_size=text.vocab_size,
        context_length=next((length for length in lengths if length), None),
        tied=bool(getattr(config, "tie_word_embeddings", True)),
    )
