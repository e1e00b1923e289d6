"""The sparse autoencoder: parameters, forward pass, sparse and dense execution, module."""

from vasae_jax.sae.config import ForwardConfig as ForwardConfig
from vasae_jax.sae.config import choose_execution as choose_execution
from vasae_jax.sae.forward import decode as decode
from vasae_jax.sae.forward import encode as encode
from vasae_jax.sae.forward import forward as forward
from vasae_jax.sae.forward import reconstruct as reconstruct
from vasae_jax.sae.params import Params as Params
from vasae_jax.sae.params import init_params as init_params
from vasae_jax.sae.params import row_dots as row_dots
from vasae_jax.sae.params import unit_rows as unit_rows
