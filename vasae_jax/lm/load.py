"""Loading a model from a Hugging Face directory, a GGUF file or the hub."""

from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from vasae_jax.lm.gguf_config import spec_from_gguf
from vasae_jax.lm.gguf_reader import GgufFile
from vasae_jax.lm.gguf_tokenizer import tokenizer_from_gguf
from vasae_jax.lm.hf_config import note_auto_map, spec_from_config
from vasae_jax.lm.hf_weights import DirectoryTensors
from vasae_jax.lm.lm import LM, LMEmbeddings
from vasae_jax.lm.model import Decoder
from vasae_jax.lm.tokenizer import tokenizer_from_directory
from vasae_jax.lm.weights import (
    DTYPES,
    Checkpoint,
    Placement,
    gguf_layout,
    huggingface_layout,
    load_blocks,
    load_model,
)
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.hub import find_model
from vasae_jax.utils.read_json import read_json_object

_HUB_PATTERNS = ["*.json", "model*.safetensors", "*.model", "merges.txt", "vocab.txt"]


def load_lm(source: str | Path, dtype: str = "float32", mesh: Mesh | None = None) -> LM:
    """Load a model of one of the architectures that are implemented in Flax here.

    Args:
        source: a directory with ``config.json`` and safetensors (or pytorch_model.bin, where
            torch is installed), a ``.gguf`` file, or the name of a repository on the Hugging
            Face hub.
        dtype: of the matrices, "float32" or "bfloat16"; also of the products' inputs.
            Norms, biases, the residual stream and the results are float32 always.
        mesh: the devices, over which :data:`vasae_jax.lm.weights.MESH_AXES` split the weights;
            None: the default device.

    Raises:
        UserError: no such source, an unsupported architecture or setting, a missing,
            corrupt or misshapen file or tensor, an unusable tokenizer. The weights are
            read last.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    files, placement = load_embeddings(source), Placement(mesh)
    arrays = load_model(files.checkpoint, dtype, placement)
    block_arrays = load_blocks(files.checkpoint, dtype, placement)
    return LM(files, Decoder(files.spec, arrays, block_arrays, placement), dtype)


def load_embeddings(source: str | Path) -> LMEmbeddings:
    """The embeddings, final norm and tokenizer of a model, without its blocks.

    Raises:
        UserError: as :func:`load_lm`.
    """
    path, name, revision = _find(str(source))
    if path.is_dir():
        checkpoint, config = open_directory(path)
        note_auto_map(config, str(path))
        tokenizer = tokenizer_from_directory(path, config, checkpoint.spec.vocab_size)
    else:
        file = GgufFile(path)
        spec = spec_from_gguf(file)
        checkpoint = Checkpoint(spec, file, gguf_layout(spec))
        checkpoint.check()
        tokenizer = tokenizer_from_gguf(file, spec.vocab_size)
    return LMEmbeddings(checkpoint, tokenizer, name, revision)


def open_directory(path: Path) -> tuple[Checkpoint, dict[str, Any]]:
    """The weights of a Hugging Face directory, all of them checked, and its ``config.json``.

    Raises:
        UserError: as :func:`load_lm`, but for the tokenizer.
    """
    config_file = path / "config.json"
    if not config_file.is_file():
        raise UserError(f"{path} holds no config.json; expected a Hugging Face directory")
    config = read_json_object(config_file, "a model's settings")
    spec = spec_from_config(config, str(config_file))
    checkpoint = Checkpoint(spec, DirectoryTensors(path), huggingface_layout(spec))
    checkpoint = checkpoint.with_stored_head()
    checkpoint.check()
    return checkpoint, config


def _find(source: str) -> tuple[Path, str, str | None]:
    """Path, name and hub revision. Torch's files are downloaded only if there are no others."""
    path, name, revision = find_model(source, _HUB_PATTERNS)
    if revision is None or any(path.glob("*.safetensors")):
        return path, name, revision
    return find_model(source, [*_HUB_PATTERNS, "pytorch_model*.bin"])
