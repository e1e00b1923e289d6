"""``--mesh.data`` and ``--mesh.model`` for the verbs that read a run."""

import argparse
from typing import TYPE_CHECKING, Literal

from vasae_jax.config import MeshConfig

if TYPE_CHECKING:
    from jax.sharding import Mesh


def add_mesh(parser: argparse.ArgumentParser) -> None:
    """Add the two arguments, spelt as ``vasae train`` has them."""
    parser.add_argument(
        "--mesh.data",
        dest="mesh_data",
        type=_auto_or_number,
        metavar="D",
        help="devices that split the rows; auto: all that --mesh.model does not use (default: 1)",
    )
    parser.add_argument(
        "--mesh.model",
        dest="mesh_model",
        type=int,
        metavar="M",
        help="devices that split the features (default: 1)",
    )


def _auto_or_number(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else int(text)


def asked_mesh(given: argparse.Namespace) -> "Mesh | None":
    """The mesh that was asked for, or None where neither argument was given.

    Raises:
        UserError: there are not so many devices.
    """
    data, model = given.mesh_data, given.mesh_model
    if data is None and model is None:
        return None

    from vasae_jax.devices.mesh import make_mesh

    return make_mesh(MeshConfig(1 if data is None else data, 1 if model is None else model))
