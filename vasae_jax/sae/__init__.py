"""The sparse autoencoder: parameters, forward pass, sparse and dense execution, module.

The module ``SAE`` is loaded when it is first used: it needs flax.nnx, which takes as long to load
as all else here.
"""

from typing import TYPE_CHECKING, Any

from vasae_jax.sae.config import ForwardConfig, choose_execution
from vasae_jax.sae.forward import Forward, decode, encode, forward, reconstruct
from vasae_jax.sae.params import Params, init_params, row_dots, unit_rows

if TYPE_CHECKING:
    from vasae_jax.sae.module import SAE as SAE


__all__ = [
    "SAE",
    "Forward",
    "ForwardConfig",
    "Params",
    "choose_execution",
    "decode",
    "encode",
    "forward",
    "init_params",
    "reconstruct",
    "row_dots",
    "unit_rows",
]


def __getattr__(name: str) -> Any:
    """Load the module when it is first asked for (PEP 562)."""
    if name != "SAE":
        raise AttributeError(f"module vasae_jax.sae has no attribute {name!r}")
    from vasae_jax.sae.module import SAE

    return SAE
