"""The sparse autoencoder: parameters, forward pass, sparse and dense execution, module."""

from vasae_jax.sae.execution import Given, Pass, choose_execution
from vasae_jax.sae.forward import Forward, decode, encode, forward, reconstruct
from vasae_jax.sae.module import SAE
from vasae_jax.sae.params import Params, init_params, row_dots, unit_rows
from vasae_jax.sae.sparse import screens

__all__ = [
    "SAE",
    "Forward",
    "Given",
    "Params",
    "Pass",
    "choose_execution",
    "decode",
    "encode",
    "forward",
    "init_params",
    "reconstruct",
    "row_dots",
    "screens",
    "unit_rows",
]
