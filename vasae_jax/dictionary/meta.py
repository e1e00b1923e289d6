"""The content of meta.json: settings, origin, claim and measures."""

from collections.abc import Mapping
from typing import Any

from vasae_jax.cache import Cache
from vasae_jax.named.files import FORMAT, VERSION
from vasae_jax.naming.claim import CLAIM, LAYER_CLAIM
from vasae_jax.system.version import __version__


def make_meta(
    *,
    anchor: str,
    fire_rate_over: str,
    hold_over: str,
    provenance: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of meta.json, but for the digests.

    Args:
        anchor: what the names refer to, in words (such as "input embeddings").
        fire_rate_over: which rows the fire rates are over, in words.
        hold_over: which rows the worth of layer names is over, in words.
        provenance: see :func:`provenance`.
        config: the run's settings.
        metrics: an evaluation as JSON, or None if there was none.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "created_by": f"vasae_jax {__version__}",
        "claim": CLAIM,
        "layer_claim": LAYER_CLAIM,
        "anchor": anchor,
        "fire_rate_over": fire_rate_over,
        "hold_over": hold_over,
        "provenance": dict(provenance),
        "config": dict(config),
        "metrics": None if metrics is None else dict(metrics),
    }


def provenance(cache: Cache, layer: int) -> dict[str, Any]:
    """Where a dictionary's rows come from: model, site, layer, text and the cache's digest."""
    manifest = cache.manifest
    return {
        "model": dict(vars(manifest.model)),
        "site": manifest.site,
        "layer": layer,
        "bos": manifest.bos,
        "context_length": manifest.context_length,
        "text": dict(vars(manifest.text)),
        "cache_digest": cache.digest,
    }
