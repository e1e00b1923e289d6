"""Running the real step on small made-up rows."""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from vasae_jax.config import (
    AnchorConfig,
    Config,
    DataConfig,
    MeshConfig,
    OptimConfig,
    RunConfig,
    SAEConfig,
)
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.training.loss import Batch, StepInputs
from vasae_jax.training.state import InitInputs, state_maker
from vasae_jax.training.step import make_steps

V, D, F, ROWS, K = 70, 16, 64, 48, 5
STEPS = 12


def make_rows(steps=STEPS, seed=0):
    """x [steps, ROWS, D] float32, keep [steps, ROWS] bool, unit anchors [V, D]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(steps, ROWS, D)).astype(np.float32)
    keep = rng.random((steps, ROWS)) > 0.1
    anchors = rng.normal(size=(V, D))
    anchors /= np.linalg.norm(anchors, axis=1, keepdims=True)
    return x, keep, anchors.astype(np.float32)


ONE = MeshConfig(data=1, model=1)


def make_config(mesh=ONE, loss="variance", search_fraction=1.0, **sae):
    mode = sae.pop("mode", "nearest")
    feature_weight = sae.pop("feature_weight", "uniform")
    target_cosine = sae.pop("target_cosine", 1.0)
    relative = sae.pop("relative", False)
    pulls = sae.pop("pulls", "decoder")
    resample_after = sae.pop("resample_after", 0.0)
    settings = {"d_sae": F, "k": K, "decoder_init": "random", **sae}
    return Config(
        sae=replace(SAEConfig(), **settings),
        anchor=AnchorConfig(
            kind="embedding",
            pulls=pulls,
            weight=0.4,
            start=0.0,
            warmup=0.0,
            mode=mode,
            search_fraction=search_fraction,
            feature_weight=feature_weight,
            target_cosine=target_cosine,
            relative=relative,
        ),
        data=DataConfig(batch=ROWS),
        optim=OptimConfig(lr=3e-3, warmup=0.0, decay=0.0, loss=loss, resample_after=resample_after),
        mesh=mesh,
        run=RunConfig(steps=STEPS),
    )


def start(config, anchors, variance=float(D)):
    mesh, mean = make_mesh(config.mesh), jnp.full((D,), 0.1, jnp.float32)
    rows, tokens = jnp.asarray(anchors), jnp.arange(V, dtype=jnp.int32)
    rate = jnp.float32(config.sae.k / config.sae.d_sae)
    init = InitInputs(jax.random.key(0), mean, rows, rows, tokens, rate)
    if config not in _MAKERS:
        _MAKERS[config] = state_maker(config, config.sae.d_sae, mesh, init)
    return mesh, _MAKERS[config](init), StepInputs(rows, mean, jnp.float32(variance))


_MAKERS: dict[Config, Callable] = {}
"""What makes the state of each config, compiled once."""


def run_steps(config, execution="sparse", steps=STEPS):
    """Final state and metrics [steps, ...] as host arrays."""
    x, keep, anchors = make_rows()
    mesh, state, context = start(config, anchors)
    step = make_steps(config, mesh, state, execution)
    seen = []
    for t in range(steps):
        state, metrics = step(t + 1)(state, Batch(jnp.asarray(x[t]), jnp.asarray(keep[t])), context)
        seen.append([float(value) for value in metrics])
    return jax.device_get(state), np.array(seen)
