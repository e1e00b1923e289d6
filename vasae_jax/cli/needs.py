"""What a verb needs and may find missing."""

import importlib.util

from vasae_jax.system.errors import UserError


def need_matplotlib() -> None:
    """Raise UserError unless figures can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "figures need matplotlib, which is not installed; "
            "expected pip install 'vasae-jax[quickstart]'"
        )
