"""A finished run, opened: its settings, its last parameters and its cache."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
from jax.sharding import Mesh

from vasae_jax.activations import activation_of
from vasae_jax.cache import Cache
from vasae_jax.cache.store import absolute_url
from vasae_jax.config import AnchorConfig, Config, DataConfig, RunConfig, SAEConfig
from vasae_jax.distributed.mesh import MODEL
from vasae_jax.interop.record import ForeignSAE, Imported, holds_import, read_import
from vasae_jax.sae import Params
from vasae_jax.sites import Kind
from vasae_jax.training.checkpoint import load_params
from vasae_jax.training.run_dir import CONFIG, read_run
from vasae_jax.utils.errors import UserError


@dataclass(frozen=True)
class Run:
    """A trained run and the cache that it belongs to."""

    config: Config
    step: int
    """The step of its last checkpoint."""
    params: Params
    cache: Cache
    mesh: Mesh | None = None
    """Devices on which names and metrics are computed; None: the first one."""
    imported: Mapping[str, Any] | None = None
    """Of an SAE that another library trained: which, and where it comes from."""


def open_trained(run: str, cache_url: str | None = None, mesh: Mesh | None = None) -> Run:
    """The last checkpoint of ``run``, with the cache of its config or the one given.

    A folder of ``vasae import`` opens as a run too: at step 0, without an anchor.

    Raises:
        UserError: no run, no checkpoint, no cache, a cache of another width or vocabulary (or of
            the same in another order), or features that ``mesh`` cannot split evenly.
    """
    folder = Path(run)
    imported: dict[str, Any] | None = None
    if holds_import(folder):
        sae, origin = read_import(folder)
        config, step, params = imported_config(sae, origin, folder), 0, imported_params(sae)
        cache_digest, expected = origin.cache_digest, None
        imported = {
            "library": sae.library,
            "activation": sae.architecture,
            "model": sae.model,
            "source": origin.source,
        }
    else:
        record = read_run(folder)
        config, (step, params) = record.config, load_params(run)
        cache_digest, expected = record.cache_digest, record.vocabulary_digest
        _check_params(params, config, folder)
    cache = Cache.open(cache_url) if cache_url else _open_named(config.data.cache, folder)
    d_sae, width = params["W_dec"].shape
    if cache.manifest.d_model != width:
        raise UserError(
            f"cache {cache.url} has rows of {cache.manifest.d_model} numbers; "
            f"expected {width} as run {run} was trained on"
        )
    vocabulary = cache.manifest.vocabulary_digest
    if cache_url and expected and vocabulary != expected:
        raise UserError(
            f"cache {cache.url} has embeddings and token strings of digest {vocabulary}; expected "
            f"{expected} as run {run} was trained on: the same, in the same order"
        )
    if cache_url is None and cache.digest != cache_digest:
        raise UserError(
            f"cache {cache.url} has changed since run {run} was trained on it; "
            "expected the same one, or another named with --cache"
        )
    if mesh is not None and d_sae % mesh.shape[MODEL]:
        raise UserError(
            f"the {d_sae} features of run {run} cannot be split over {mesh.shape[MODEL]} devices; "
            "expected --mesh.model to divide them"
        )
    return Run(config, step, params, cache, mesh, imported)


def _check_params(params: Params, config: Config, run: Path) -> None:
    """Raise UserError unless a checkpoint's parameters are those of the settings beside it."""
    site = config.data.input_site  # UserError for one that cannot be
    shape = params["W_dec"].shape if "W_dec" in params else ()
    d_sae, width = shape if len(shape) == 2 else (0, 0)
    expected: dict[str, tuple[int, ...]] = {"W_enc": (d_sae, width), "W_dec": (d_sae, width)}
    expected |= {"b_enc": (d_sae,), "b_dec": (width,)}
    activation = activation_of(config.sae)
    expected |= dict.fromkeys(activation.extra_params, (d_sae,))
    found = {name: tuple(value.shape) for name, value in params.items()}
    if found != expected or 0 in shape or config.sae.d_sae not in (0, d_sae):
        raise UserError(
            f"the checkpoint of run {run} has parameters {found}; expected those of "
            f"{config.sae.d_sae} features with activation {activation.kind} at {site}"
        )
    most = activation.max_active(d_sae)
    if most is not None and not 1 <= most <= d_sae:
        raise UserError(
            f"{run / CONFIG} has sae.k {config.sae.k}; expected 1 to the {d_sae} features"
        )
    if any(value.dtype != jnp.float32 for value in params.values()):
        raise UserError(f"the checkpoint of run {run} has parameters that are not float32")


def _open_named(url: str, run: Path) -> Cache:
    """The cache that the files of a run name."""
    try:
        return Cache.open(url)
    except UserError as error:
        place = absolute_url(url)
        tried = url if place == url else f"{url}, which is {place} from here"
        raise UserError(
            f"run {run} belongs to the cache {tried}, which cannot be opened: {error}; if it is "
            "somewhere else now, name it with --cache"
        ) from error


def imported_config(sae: ForeignSAE, origin: Imported, folder: Path) -> Config:
    """The settings of an imported SAE that naming and measuring go by."""
    data = DataConfig(
        cache=origin.cache,
        layer=origin.layer,
        site=cast(Kind, origin.site),
        skip_positions=origin.skip_positions,
        max_norm=origin.max_norm,
    )
    plain = SAEConfig(
        method="plain",
        d_sae=len(sae.W_dec),
        activation=sae.activation.kind,
        k=sae.k,
        pre_bias=sae.pre_bias,
    )
    anchor = AnchorConfig(kind="embedding", weight=0.0)
    return Config(data=data, sae=plain, anchor=anchor, run=RunConfig(out=str(folder), steps=0))


def imported_params(sae: ForeignSAE) -> Params:
    """Its parameters on the device."""
    return {name: jnp.asarray(value) for name, value in sae.params.items()}
