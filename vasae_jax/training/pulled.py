"""Which rows of a run are pulled towards anchors, and in what measure they are near."""

from typing import Literal

import jax

from vasae_jax.anchor.layer import Scatter, measured
from vasae_jax.config import Config
from vasae_jax.sae import Params


def pulled_name(config: Config) -> Literal["W_enc", "W_dec"]:
    """The parameter whose rows are pulled."""
    return "W_enc" if config.anchor.pulls == "encoder" else "W_dec"


def pulled(params: Params, config: Config, scatter: Scatter | None) -> jax.Array:
    """The rows [F, d] whose cosines with anchors count.

    They are those of the pulled matrix, or with a ``scatter`` these rows as it measures them.
    """
    rows = params[pulled_name(config)]
    return rows if scatter is None else measured(rows, scatter)


def of_matrix(pull: jax.Array, scatter: Scatter | None) -> jax.Array:
    """The gradient [F, d] in the pulled matrix, from that in :func:`pulled` rows.

    The measure is a product with a symmetric matrix, so that its transpose is itself.
    """
    return pull if scatter is None else measured(pull, scatter)


def keeps_unit(config: Config) -> bool:
    """Whether the run's decoder rows have norm 1 at every step."""
    return config.sae.unit_norm and config.sae.method != "tied"


def pulls_unit(config: Config) -> bool:
    """Whether the rows that are pulled have norm 1 at every step."""
    return keeps_unit(config) and config.anchor.pulls == "decoder"
