"""A cache in a few lines of text."""

from vasae_jax.cache.buffers import np_dtype
from vasae_jax.cache.reader import Cache


def info(url: str) -> str:
    """What the cache at ``url`` holds, for people; raises UserError if there is none."""
    cache = Cache.open(url)
    manifest = cache.manifest
    rows = sum(split.rows for split in manifest.splits.values())
    width = len(manifest.layers) * (manifest.d_model * np_dtype(manifest.dtype).itemsize + 4) + 12
    model = manifest.model
    lines = {
        "cache": cache.url,
        "complete": f"yes, by {manifest.created_by}",
        "model": f"{model.id} ({model.family}, revision {model.revision})",
        "site": manifest.site,
        "layers": ", ".join(map(str, manifest.layers)),
        "d_model": str(manifest.d_model),
        "vocabulary": f"{manifest.vocab_size:,} tokens, {'tied' if manifest.tied else 'untied'}",
        "computed": manifest.computed or "not stated",
        "context": f"{manifest.context_length} tokens, {'with' if manifest.bos else 'without'} BOS",
        "text": manifest.text.source,
    }
    for name, split in manifest.splits.items():
        lines[name] = f"{split.rows:,} rows of {split.documents:,} documents"
    lines["size"] = f"{rows * width / 1e6:,.1f} MB of rows as {manifest.dtype}"
    lines["digest"] = cache.digest
    return "\n".join(f"{key:<12}{value}" for key, value in lines.items())
