"""A language model of transformers before its weights are read: files, sizes and tokenizer."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import Keys

from vasae_jax.lm.gguf_config import ARCHITECTURES, MetadataReader
from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.gguf_tokenizer import tokenizer_from_gguf
from vasae_jax.lm.hf_config import architectures, note_auto_map
from vasae_jax.lm.hf_weights import INDEX_SUFFIX, indexed_files
from vasae_jax.lm.spec import check_layers
from vasae_jax.lm.tokenizer import Tokenizer, tokenizer_from_directory
from vasae_jax.utils.errors import UserError, first_line
from vasae_jax.utils.files import path_inside, sha256_bytes, sha256_file
from vasae_jax.utils.hub import find_model
from vasae_jax.utils.read_json import read_json_object
from vasae_jax.utils.typed import check_fields

SETTINGS = ["*.json", "*.model", "merges.txt", "vocab.txt"]
ADAPTER = "adapter_config.json"
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
    window: int | None = None
    """Longest window in which a sliding window of attention makes no difference, where the
    library does not know of it."""


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
        UserError: no such model, one that is not a causal language model, one that needs code of
            its own, a GGUF file that transformers would read in part, or an unusable tokenizer.
    """

    def __init__(self, source: str, computed: str) -> None:
        files = find_model(source, [*SETTINGS, WEIGHTS[0]])
        if files[2] and not list(files[0].glob(WEIGHTS[0])):
            files = find_model(source, [*SETTINGS, WEIGHTS[1]])
        self.path, self.id, self.revision = files
        self.computed = computed
        file = GgufFile(self.path) if self.gguf else None
        if file is not None:
            _refuse_known_gguf(file)
        self.config = self._read_config()
        sizes = self.config.get_text_config()
        limits = (getattr(sizes, name, None) for name in ("max_position_embeddings", "max_seq_len"))
        self.spec = Spec(
            family=sizes.model_type,
            n_layers=check_layers(sizes.num_hidden_layers, str(self.path)),
            d_model=sizes.hidden_size,
            vocab_size=sizes.vocab_size,
            context_length=next((length for length in limits if length), None),
            tied=bool(getattr(self.config, "tie_word_embeddings", True)),
            window=None if file is None else _check_gguf(file, self.config),
        )
        check_fields(self.spec, self.path)
        self.tokenizer = self._read_tokenizer(file)

    @property
    def gguf(self) -> bool:
        """Whether the model is one GGUF file."""
        return self.path.suffix == ".gguf"

    def arguments(self) -> tuple[str, dict[str, Any]]:
        """The place and the options for transformers' ``from_pretrained``."""
        options: dict[str, Any] = {"trust_remote_code": False}
        if self.gguf:
            return str(self.path.parent), options | {"gguf_file": self.path.name}
        return str(self.path), options

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
        if not self.gguf:
            _refuse_other_files(self.path)
        if not self.gguf and (self.path / "config.json").is_file():
            self._check_settings(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
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

    def _check_settings(self, classes: Mapping[str, Any]) -> None:
        """Check ``config.json`` before transformers does, which would ask a question on stdin.

        Args:
            classes: transformers' causal language models by model type.

        Raises:
            UserError: the model needs code of its own, or attends to later tokens.
        """
        file = self.path / "config.json"
        settings = read_json_object(file, "a model's settings")
        if (name := settings.get("transformers_weights")) is not None:
            path_inside(self.path, name, file)
        for part in (settings, settings.get("text_config")):
            if isinstance(part, dict):
                _refuse_bidirectional(part, str(file))
        known = classes.get(str(settings.get("model_type")))
        names = architectures(settings, str(file)) or [known]
        if settings.get("auto_map") and (known is None or names[0] != known):
            raise UserError(
                f"{file} has auto_map: {names[0] or 'the model'} is run by Python code of its own, "
                "which is never run here; expected a model that transformers itself has"
            )
        note_auto_map(settings, str(self.path))

    def _read_tokenizer(self, file: GgufFile | None) -> Tokenizer:
        """The tokenizer, as :func:`vasae_jax.lm.load_lm` would read it."""
        if file is not None:
            return tokenizer_from_gguf(file, self.spec.vocab_size)
        return tokenizer_from_directory(self.path, self.config.to_dict(), self.spec.vocab_size)


def _refuse_other_files(folder: Path) -> None:
    """Raise UserError where transformers would read weights of another model than the folder's."""
    for index in folder.glob(f"*{INDEX_SUFFIX}"):
        indexed_files(index)
    if (folder / ADAPTER).is_file():
        raise UserError(
            f"{folder} holds {ADAPTER}, which names another model that it adapts; expected a model "
            "with all of its weights (peft's merge_and_unload makes one)"
        )


_CAUSAL = {"is_causal": (None, True), "use_bidirectional_attention": (None, False, "vision")}
"""Settings and their values in models that are causal over text."""


def _refuse_bidirectional(settings: Mapping[str, Any], where: str) -> None:
    """Raise UserError if ``settings`` say that tokens attend to later ones."""
    for key, causal in _CAUSAL.items():
        if settings.get(key) not in causal:
            raise UserError(
                f"{where} has {key} {settings[key]!r}; expected {causal[1]}, a causal model, "
                "as padding would change the rows of others"
            )


# GGUF files, of which transformers reads the settings that it knows and passes over the others.


def _refuse_known_gguf(file: GgufFile) -> None:
    """Raise UserError for an architecture that this package reads in full."""
    architecture = file.get(Keys.General.ARCHITECTURE)
    if architecture in ARCHITECTURES:
        raise UserError(
            f"{file.path} is of architecture {architecture}, of whose GGUF files transformers "
            "leaves out rotary scaling, soft caps and scales; expected "
            "--backend flax for it, or the model's Hugging Face directory"
        )


def _check_gguf(file: GgufFile, config: Any) -> int | None:
    """Check that ``config``, which transformers made of ``file``, has all of its settings.

    Returns:
        The sliding window of attention that transformers does not know of, if there is one.

    Raises:
        UserError: a setting that transformers passes over, or one that is missing and would get
            a default.
    """
    architecture = str(file.get(Keys.General.ARCHITECTURE))
    reader = MetadataReader(file, architecture)
    carried = _carried(architecture)
    for key in carried - {"vocab_size"}:
        if reader.get("{arch}." + key) is None:
            raise reader.error("{arch}." + key, None, "a value, as its default differs by model")
    for key, value in _implied(config).items():
        stored = reader.get("{arch}." + key, value)
        if stored != value and key not in carried:
            raise reader.error("{arch}." + key, stored, f"{value}, which transformers assumes")
    window = None
    if "attention.sliding_window" not in carried and reader.get(Keys.Attention.SLIDING_WINDOW):
        window = reader.count(Keys.Attention.SLIDING_WINDOW)
    reader.refuse_unread()
    return window


def _carried(architecture: str) -> set[str]:
    """The keys of metadata, without the architecture, that transformers puts into a config."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    plain = architecture.replace("-", "").replace("_", "")
    mapping: dict[str, Any] = GGUF_CONFIG_MAPPING
    names = (name for name in mapping if name.replace("_", "") == plain)
    keys = mapping.get(next(names, ""), {})
    return {key for key, setting in keys.items() if setting is not None}


def _implied(config: Any) -> dict[str, Any]:
    """Values of keys that transformers passes over, by what it takes in their place."""
    heads = getattr(config, "num_attention_heads", None) or 1
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = getattr(config, "rope_parameters", None) or {}
    part = rope.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", 1.0))
    sizes = {
        "rope.dimension_count": int(size * part),
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", None) or heads,
        "use_parallel_residual": getattr(config, "use_parallel_residual", None),
        "expert_feed_forward_length": getattr(config, "moe_intermediate_size", None),
        "expert_shared_feed_forward_length": getattr(
            config, "shared_expert_intermediate_size", None
        ),
    }
    return {key: value for key, value in sizes.items() if value is not None}
