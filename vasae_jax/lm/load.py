"""Finding a model's files, refusing what is not supported, and loading the rest."""

import json
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from vasae_jax.lm.gguf_config import spec_from_gguf
from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.gguf_tokenizer import tokenizer_from_gguf
from vasae_jax.lm.hf_config import spec_from_config
from vasae_jax.lm.hf_weights import SafetensorsFiles, TorchFiles, has_torch_files
from vasae_jax.lm.lm import LM, Ends
from vasae_jax.lm.model import Decoder
from vasae_jax.lm.tokenizer import Tokenizer, tokenizer_from_directory
from vasae_jax.lm.weights import (
    DTYPES,
    Checkpoint,
    Placement,
    Tensors,
    gguf_pieces,
    huggingface_pieces,
    load_blocks,
    load_model,
)
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.hub import locate

_HUB_PATTERNS = ["*.json", "model*.safetensors", "*.model", "merges.txt", "vocab.txt"]


def load_lm(source: str | Path, dtype: str = "float32", mesh: Mesh | None = None) -> LM:
    """Load a model of an architecture that is written in Flax here.

    Args:
        source: a directory with ``config.json`` and safetensors (or pytorch_model.bin, where
            torch is installed), a ``.gguf`` file, or the name of a repository on the Hugging
            Face hub.
        dtype: of the matrices, "float32" or "bfloat16"; also of the products' inputs.
            Norms, biases, the residual stream and the results are float32 always.
        mesh: weights are laid out on it by :class:`vasae_jax.lm.weights.Rules`; None takes
            the default device.

    Raises:
        UserError: no such source, an unsupported architecture or setting, a missing,
            corrupt or misshapen file or tensor, an unusable tokenizer. The weights are
            read last.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    path, name, revision = _find(str(source))
    checkpoint, tokenizer = _open(path)
    checkpoint.check()
    placement = Placement(mesh)
    decoder = Decoder(
        checkpoint.spec,
        load_model(checkpoint, dtype, placement),
        load_blocks(checkpoint, dtype, placement),
        placement,
    )
    return LM(decoder, checkpoint, tokenizer, name, revision, dtype)


def load_ends(source: str | Path) -> Ends:
    """The two ends of a model that :func:`load_lm` would load, without its blocks.

    Raises:
        UserError: as :func:`load_lm`.
    """
    path, name, revision = _find(str(source))
    checkpoint, tokenizer = _open(path)
    checkpoint.check()
    return Ends(checkpoint, tokenizer, name, revision)


def _find(source: str) -> tuple[Path, str, str | None]:
    """Path, name and hub revision; of a repository torch's files only where it has no others."""
    path, name, revision = locate(source, _HUB_PATTERNS)
    if revision is None or any(path.glob("*.safetensors")):
        return path, name, revision
    return locate(source, [*_HUB_PATTERNS, "pytorch_model*.bin"])


def _open(path: Path) -> tuple[Checkpoint, Tokenizer]:
    """Read everything but the weights."""
    if path.is_dir():
        config = _read_config(path / "config.json")
        spec = spec_from_config(config, str(path / "config.json"))
        tensors: Tensors = TorchFiles(path) if has_torch_files(path) else SafetensorsFiles(path)
        tokenizer = tokenizer_from_directory(path, config, spec.vocab_size)
        return Checkpoint(spec, tensors, huggingface_pieces(spec)), tokenizer
    file = GgufFile(path)
    spec = spec_from_gguf(file)
    tokenizer = tokenizer_from_gguf(file, spec.vocab_size)
    return Checkpoint(spec, file, gguf_pieces(spec)), tokenizer


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.parent} holds no config.json; expected a Hugging Face directory")
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); expected a model's settings") from error
    if not isinstance(config, dict):
        raise UserError(f"{path} holds a {type(config).__name__}; expected a model's settings")
    return config
