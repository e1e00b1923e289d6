"""Which rows of a run are pulled towards anchors."""

from typing import Literal

import jax

from vasae_jax.config import Config
from vasae_jax.sae import Params


def pulled_name(config: Config) -> Literal["W_enc", "W_dec"]:
    """The parameter whose rows are pulled."""
    return "W_enc" if config.anchor.pulls == "encoder" else "W_dec"


def pulled(params: Params, config: Config) -> jax.Array:
    """The matrix [F, d] whose rows are pulled."""
    return params[pulled_name(config)]


def keeps_unit(config: Config) -> bool:
    """Whether the run's decoder rows have norm 1 at every step."""
    return config.sae.unit_norm and config.sae.method != "tied"


def pulls_unit(config: Config) -> bool:
    """Whether the rows that are pulled have norm 1 at every step."""
    return keeps_unit(config) and config.anchor.pulls == "decoder"
