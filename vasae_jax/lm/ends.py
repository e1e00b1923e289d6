"""A language model's two ends: its embeddings, final norm and tokenizer, without its blocks."""

import functools
from typing import Any

import numpy as np

from vasae_jax.lm.spec import Spec
from vasae_jax.lm.tokenizer import Tokenizer
from vasae_jax.lm.weights import Checkpoint
from vasae_jax.system.files import sha256_bytes, sha256_file


class Ends:
    """What a cache holds of a model, read from its files when it is asked for.

    Attributes:
        spec: what the model is made of.
        tokenizer: its tokenizer.
        id: hub name, or the name of the directory or file.
        revision: commit on the hub, None for local files.
    """

    def __init__(
        self, checkpoint: Checkpoint, tokenizer: Tokenizer, id: str, revision: str | None
    ) -> None:
        self.spec: Spec = checkpoint.spec
        self.tokenizer = tokenizer
        self.id = id
        self.revision = revision
        self._checkpoint = checkpoint

    def embedding(self) -> np.ndarray:
        """Input embeddings as the files hold them, float32 [V, d_model]."""
        return self._read("embed.weight")

    def unembedding(self) -> np.ndarray:
        """Output embeddings, float32 [V, d_model]; the input embeddings if tied."""
        return self._read("embed.weight" if self.spec.tied else "head.weight")

    def final_norm(self) -> dict[str, Any]:
        """The norm before the head: kind, eps, weight [d_model], bias [d_model] or None."""
        biased = self.spec.norm_kind == "layernorm"
        return {
            "kind": self.spec.norm_kind,
            "eps": self.spec.norm_eps,
            "weight": self._read("final_norm.weight").tolist(),
            "bias": self._read("final_norm.bias").tolist() if biased else None,
        }

    @functools.cached_property
    def source_digest(self) -> str:
        """SHA-256 over the digests of the weight files, in the order of their names."""
        files = sorted(self._checkpoint.tensors.files, key=lambda path: path.name)
        return sha256_bytes("".join(sha256_file(path) for path in files).encode())

    def _read(self, key: str) -> np.ndarray:
        return np.array(self._checkpoint.read(key), dtype=np.float32, order="C")
