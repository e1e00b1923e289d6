"""A tiny real model, a cache of windows that it predicts well, and SAEs over its rows."""

from dataclasses import dataclass, replace
from pathlib import Path

import cache_fixtures
import jax.numpy as jnp
import lm_fixtures as fx
import numpy as np

from vasae_jax.cache import Cache, CacheWriter, ModelInfo
from vasae_jax.config import AnchorConfig, Config, DataConfig, SAEConfig
from vasae_jax.extract.model import read_vocabulary
from vasae_jax.lm import load_lm
from vasae_jax.training.run import Run

LENGTH, LAYER = 10, 1
LENGTHS = (10, 7, 10, 2, 9, 10, 3)
"""Tokens in each held-out window."""


@dataclass(frozen=True)
class Home:
    """A model directory, torch's own model, the cache, and the windows in it."""

    directory: Path
    torch_model: object
    cache: Cache
    tokens: np.ndarray
    """[S, LENGTH], right-padded with 0"""


def make_home(path: Path, config, seed: int = 0, read=load_lm) -> Home:
    """The model of ``config`` and a cache of LAYER over text that it wrote itself."""
    torch_model = fx.random_model(config, seed)
    (path / "model").mkdir(parents=True)
    directory = fx.save_model(torch_model, path / "model")
    lm = read(str(directory))
    tokens = greedy(torch_model)
    plan = cache_fixtures.make_plan(
        lm.spec.d_model,
        lm.spec.vocab_size,
        (LAYER,),
        "float32",
        lm.spec.tied,
        model=ModelInfo(lm.id, "", lm.spec.family, lm.source_digest),
        context_length=LENGTH,
        computed=f"{lm.computed}, 4 windows at once",
    )
    with CacheWriter(str(path / "cache"), plan, read_vocabulary(lm)) as writer:
        for split, reverse in (("train", True), ("heldout", False)):
            cache_fixtures.append(writer, split, _rows(lm, tokens, reverse))
        writer.finish()
    return Home(directory, torch_model, Cache.open(str(path / "cache")), tokens)


def greedy(torch_model) -> np.ndarray:
    """Windows that begin at random and go on with the model's likeliest token."""
    tokens = np.zeros((len(LENGTHS), LENGTH), np.int32)
    tokens[:, 0] = np.random.default_rng(0).integers(1, fx.VOCAB, len(LENGTHS))
    for place in range(1, LENGTH):
        logits = fx.torch_logits(torch_model, tokens[:, :place])
        tokens[:, place] = logits[:, -1].argmax(axis=1)
    return np.where(real(), tokens, 0).astype(np.int32)


def real() -> np.ndarray:
    """bool [S, LENGTH], False for padding."""
    return np.arange(LENGTH)[None, :] < np.array(LENGTHS)[:, None]


def make_run(home: Home, params, k: int, pre_bias: float = 0.0, center: bool = False) -> Run:
    """A run with these parameters; first positions are masked."""
    config = replace(
        Config(),
        data=DataConfig(cache=home.cache.url, layer=LAYER, skip_positions=1, max_norm=0.0),
        sae=SAEConfig(k=k, pre_bias=pre_bias, d_sae=len(params["b_enc"])),
        anchor=AnchorConfig(kind="embedding", pulls="decoder", center=center),
    )
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    return Run(config, 1, params, home.cache)


def random_params(d: int, features: int = 60, seed: int = 0, bias: float = 0.0):
    rng = np.random.default_rng(seed)
    shapes = {"W_enc": (features, d), "W_dec": (features, d), "b_dec": (d,)}
    params = {name: rng.normal(size=shape) * 0.3 for name, shape in shapes.items()}
    return {**params, "b_enc": np.full(features, bias)}


def perfect_params(d: int):
    """x_hat = x: a feature for each sign of each coordinate."""
    both = np.concatenate([np.eye(d), -np.eye(d)])
    return {"W_enc": both, "W_dec": both, "b_enc": np.zeros(2 * d), "b_dec": np.zeros(d)}


def _rows(lm, tokens: np.ndarray, reverse: bool) -> cache_fixtures.Rows:
    """The rows of the windows, in this or the other order (so that the splits differ)."""
    order = np.arange(len(tokens))[:: -1 if reverse else 1]
    chosen = real()[order]
    acts = np.asarray(lm.residuals(tokens[order], (LAYER,)))[0]
    shape = chosen.shape
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), shape)
    docs = np.broadcast_to(np.arange(len(tokens), dtype=np.int32)[:, None], shape)
    return cache_fixtures.Rows(
        tokens[order][chosen],
        positions[chosen],
        docs[chosen] + 1000 * reverse,
        {LAYER: acts[chosen].astype(np.float32)},
    )
