"""A finished run, opened: its settings, its last parameters and its cache."""

from dataclasses import dataclass
from pathlib import Path

from jax.sharding import Mesh

from vasae_jax.cache import Cache
from vasae_jax.config import Config
from vasae_jax.devices.mesh import MODEL
from vasae_jax.sae import Params
from vasae_jax.system.errors import UserError
from vasae_jax.training.checkpoint import load_params
from vasae_jax.training.rundir import read_run


@dataclass(frozen=True)
class Run:
    """A trained run and the cache that it belongs to."""

    config: Config
    step: int
    """The step of its last checkpoint."""
    params: Params
    cache: Cache
    mesh: Mesh | None = None
    """Devices that its names and measures are worked out on; None: the first one."""


def open_trained(run: str, cache_url: str | None = None, mesh: Mesh | None = None) -> Run:
    """The last checkpoint of ``run``, with the cache of its config or the one given.

    Raises:
        UserError: no run, no checkpoint, no cache, a cache of another width or vocabulary (or of
            the same in another order), or features that ``mesh`` cannot split evenly.
    """
    recorded = read_run(Path(run))
    cache = Cache.open(cache_url or recorded.config.data.cache)
    step, params = load_params(run)
    d_sae, width = params["W_dec"].shape
    if cache.manifest.d_model != width:
        raise UserError(
            f"cache {cache.url} has rows of {cache.manifest.d_model} numbers; "
            f"expected {width} as run {run} was trained on"
        )
    found, expected = cache.manifest.vocabulary_digest, recorded.vocabulary_digest
    if cache_url and expected and found != expected:
        raise UserError(
            f"cache {cache.url} has embeddings and token strings of digest {found}; expected "
            f"{expected} as run {run} was trained on: the same, in the same order"
        )
    if cache_url is None and cache.digest != recorded.cache_digest:
        raise UserError(
            f"cache {cache.url} has changed since run {run} was trained on it; "
            "expected the same one, or another named with --cache"
        )
    if mesh is not None and d_sae % mesh.shape[MODEL]:
        raise UserError(
            f"the {d_sae} features of run {run} cannot be split over {mesh.shape[MODEL]} devices; "
            "expected --mesh.model to divide them"
        )
    return Run(recorded.config, step, params, cache, mesh)
