"""What a cache carries of its model besides rows: embeddings, final norm, token strings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vasae_jax.cache.manifest import EMBEDDING, FINAL_NORM, TOKENS, UNEMBEDDING, CachePlan, encode
from vasae_jax.cache.store import Store, array_metadata, write_all
from vasae_jax.cache.vocab import Vocab
from vasae_jax.system.errors import UserError
from vasae_jax.system.files import sha256_array, sha256_bytes

NORM_KINDS = ("rmsnorm", "layernorm")


@dataclass(frozen=True)
class Vocabulary:
    """The arrays and strings of a model's two ends.

    Attributes:
        embedding: float32 [vocab_size, d_model], the input embeddings.
        unembedding: float32 [vocab_size, d_model], or None where it is the embedding.
        final_norm: ``{"kind", "eps", "weight", "bias"}``, the norm before the unembedding.
        vocab: the token strings.
    """

    embedding: np.ndarray
    unembedding: np.ndarray | None
    final_norm: Mapping[str, Any]
    vocab: Vocab

    def arrays(self) -> dict[str, np.ndarray]:
        """The float32 arrays by their key in the cache."""
        found = {EMBEDDING: np.asarray(self.embedding, np.float32)}
        if self.unembedding is not None:
            found[UNEMBEDDING] = np.asarray(self.unembedding, np.float32)
        return found

    def files(self) -> dict[str, bytes]:
        """The other files by their key in the cache."""
        values = {FINAL_NORM: _plain_norm(self.final_norm), TOKENS: self.vocab.to_json()}
        return {key: encode(value, indent=None) for key, value in values.items()}

    def digests(self) -> dict[str, str]:
        """SHA-256 of each part, by the name that the manifest uses."""
        found = {key: sha256_array(array) for key, array in self.arrays().items()}
        found |= {key: sha256_bytes(data) for key, data in self.files().items()}
        return {digest_name(key): digest for key, digest in found.items()}


def digest_name(key: str) -> str:
    """``vocab/final_norm.json`` -> ``final_norm``."""
    return key.removeprefix("vocab/").removesuffix(".json")


def check(vocabulary: Vocabulary, plan: CachePlan) -> None:
    """Raise UserError unless the vocabulary fits the plan and is finite."""
    shape = (plan.vocab_size, plan.d_model)
    if plan.tied != (vocabulary.unembedding is None):
        raise UserError(
            f"the plan says tied={plan.tied} and an unembedding is "
            f"{'absent' if vocabulary.unembedding is None else 'given'}; expected one exactly "
            "for an untied model"
        )
    for key, array in vocabulary.arrays().items():
        if array.shape != shape:
            raise UserError(f"{key} has shape {array.shape}; expected {shape}")
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise UserError(f"{key} has a value that is not finite in row {row}; expected numbers")
    check_tokens(vocabulary.vocab, plan.vocab_size)
    check_final_norm(vocabulary.final_norm, plan.d_model)


def check_tokens(vocab: Vocab, vocab_size: int) -> None:
    """Raise UserError unless there is one token string for each embedding row."""
    if len(vocab.raw) != vocab_size:
        raise UserError(
            f"the vocabulary has {len(vocab.raw)} token strings; expected one for each of the "
            f"{vocab_size} embedding rows"
        )


def check_final_norm(norm: Mapping[str, Any], d_model: int) -> None:
    """Raise UserError unless ``norm`` describes a final norm of width ``d_model``."""
    kind, weight, bias = norm.get("kind"), norm.get("weight"), norm.get("bias")
    if kind not in NORM_KINDS:
        raise UserError(f"final norm has kind {kind!r}; expected one of {', '.join(NORM_KINDS)}")
    for name, values in (("weight", weight), ("bias", bias)):
        length = _length(values)
        if length != d_model and not (name == "bias" and values is None):
            raise UserError(f"final norm has a {name} of {length} numbers; expected {d_model}")


def _length(numbers: Any) -> int | None:
    """How many numbers are given; None where it is something else."""
    try:
        found = np.asarray(numbers, np.float64)
    except (TypeError, ValueError):
        return None
    return len(found) if found.ndim == 1 else None


def write(store: Store, vocabulary: Vocabulary, plan: CachePlan) -> None:
    """Store all parts, each durable on return; raises UserError."""
    metadata = vocab_metadata(plan)
    parts = vocabulary.arrays()
    arrays = {key: store.create_array(key, metadata) for key in parts}
    with store.errors(f"cannot write {store.name('vocab')}", "a writable place with free space"):
        write_all((arrays[key], 0, parts[key]) for key in parts)
    for key, data in vocabulary.files().items():
        store.write(key, data)


def vocab_metadata(plan: CachePlan) -> dict[str, Any]:
    """zarr3 metadata of the vocabulary's arrays."""
    return array_metadata(
        "float32", plan.vocab_size, plan.d_model, plan.chunk_rows, plan.shard_rows
    )


def _plain_norm(norm: Mapping[str, Any]) -> dict[str, Any]:
    bias = norm["bias"]
    return {
        "kind": str(norm["kind"]),
        "eps": float(norm["eps"]),
        "weight": [float(value) for value in norm["weight"]],
        "bias": None if bias is None else [float(value) for value in bias],
    }
