"""Where this project keeps what it need not fetch or make twice."""

import os
from pathlib import Path


def default_cache() -> Path:
    """``$VASAE_CACHE``, else ``vasae_jax`` under ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    own = os.environ.get("VASAE_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "vasae_jax"
