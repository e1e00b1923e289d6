"""Models from the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from vasae_jax.system.errors import UserError


def snapshot(name: str, patterns: Sequence[str]) -> Path:
    """The local copy of hub repository ``name``, its files that match ``patterns``.

    Raises:
        UserError: there is no such repository, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except Exception as error:  # network, name, permission and disk errors share no base
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            f"{name} is neither a local path nor to be had from the Hugging Face hub "
            f"({type(error).__name__}: {reason}); expected one of the two"
        ) from error
