"""A small complete cache for tests, with the arrays that it was made of."""

from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from vasae_jax.cache import Cache, CachePlan, CacheWriter, ModelInfo, TextInfo
from vasae_jax.cache.vocab import Vocab, Vocabulary


@dataclass(frozen=True)
class Rows:
    """What one split is made of, in memory."""

    tokens: np.ndarray
    positions: np.ndarray
    docs: np.ndarray
    acts: dict[int, np.ndarray]

    def part(self, start: int, stop: int) -> "Rows":
        cut = slice(start, stop)
        acts = {layer: rows[cut] for layer, rows in self.acts.items()}
        return Rows(self.tokens[cut], self.positions[cut], self.docs[cut], acts)


def make_plan(d=16, vocab=40, layers=(1, 3), dtype="bfloat16", tied=True, **changes) -> CachePlan:
    values = {
        "model": ModelInfo("tiny", "main", "gpt2", "0" * 64),
        "sites": tuple(layers),
        "d_model": d,
        "vocab_size": vocab,
        "tied": tied,
        "dtype": dtype,
        "context_length": 20,
        "bos": False,
        "text": TextInfo("made up", "1" * 64),
        "heldout_share": 0.2,
        "chunk_rows": 16,
        "shard_rows": 64,
    }
    return CachePlan(**(values | changes))


def make_vocabulary(plan: CachePlan, seed=0) -> Vocabulary:
    rng = np.random.default_rng(seed)
    shape = (plan.vocab_size, plan.d_model)
    embedding = rng.standard_normal(shape, np.float32)
    ones = [1.0] * plan.d_model
    return Vocabulary(
        embedding,
        None if plan.tied else rng.standard_normal(shape, np.float32),
        {"kind": "rmsnorm", "eps": 1e-5, "weight": ones, "bias": None},
        Vocab("plain", tuple(f"t{token}" for token in range(plan.vocab_size))),
    )


def make_rows(plan: CachePlan, rows: int, seed=0, first_doc=0) -> Rows:
    """Rows that are k-sparse mixtures of embedding rows; position 0 is 30 times as long."""
    rng = np.random.default_rng(seed + 100)
    embedding = make_vocabulary(plan).embedding
    positions = np.arange(rows, dtype=np.int32) % plan.context_length
    # A document is one to three windows long.
    docs = first_doc + np.cumsum((positions == 0) & (rng.random(rows) < 0.5)).astype(np.int32)
    tokens = rng.integers(0, plan.vocab_size, rows).astype(np.int32)
    acts = {}
    for layer in (site.layer for site in plan.sites):
        others = rng.integers(0, plan.vocab_size, (rows, 3))
        weights = rng.random((rows, 3), np.float32)
        mixed = embedding[tokens] + np.einsum("rk,rkd->rd", weights, embedding[others])
        mixed[positions == 0] *= 30
        dtype = ml_dtypes.bfloat16 if plan.dtype == "bfloat16" else np.float32
        acts[layer] = mixed.astype(dtype)
    return Rows(tokens, positions, docs, acts)


def append(writer: CacheWriter, split: str, rows: Rows, start: int | None = None) -> None:
    writer.append(split, rows.tokens, rows.positions, rows.docs, rows.acts, start=start)


def make_cache(
    tmp_path: Path,
    *,
    rows=1000,
    d=16,
    vocab=40,
    layers=(1, 3),
    dtype="bfloat16",
    tied=True,
    heldout=200,
    name="cache",
    **changes,
) -> Cache:
    """A complete cache of ``rows`` training and ``heldout`` held-out rows under ``tmp_path``.

    ``changes`` replace fields of the plan, such as ``chunk_rows`` and ``shard_rows``.
    """
    plan = make_plan(d, vocab, layers, dtype, tied, **changes)
    url = str(tmp_path / name)
    with CacheWriter(url, plan, make_vocabulary(plan)) as writer:
        append(writer, "train", make_rows(plan, rows))
        append(writer, "heldout", make_rows(plan, heldout, seed=1, first_doc=1_000_000))
        writer.finish()
    return Cache.open(url)
