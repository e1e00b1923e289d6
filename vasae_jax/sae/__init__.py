"""The sparse autoencoder: parameters, forward pass, sparse and dense execution, module."""

from vasae_jax.sae.execution import Pass, choose_execution
from vasae_jax.sae.forward import Forward, decode, encode, forward, reconstruct
from vasae_jax.sae.module import SAE
from vasae_jax.sae.params import Params, init_params, row_dots, unit_rows

__all__ = [
    "SAE",
    "Forward",
    "Params",
    "Pass",
    "choose_execution",
    "decode",
    "encode",
    "forward",
    "init_params",
    "reconstruct",
    "row_dots",
    "unit_rows",
]
