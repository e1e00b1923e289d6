"""Run text through a language model and store the rows of its layers as an activation cache.

The same command continues an extraction that was stopped. docs/extraction.md has every option.
"""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vasae_jax.extract.model import Model


def run(arguments: Sequence[str]) -> None:
    """Extract the rows of a model's layers into a cache, and print its counts."""
    from vasae_jax.extract.arguments import make_parser, store

    parser = make_parser(__doc__, "vasae extract")
    _add_model_options(parser)
    store(parser.parse_args(arguments), _build)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    from vasae_jax.extract.backends import BACKENDS

    backend = "library that runs the model; auto: Flax, or PyTorch for models that Flax lacks"
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help=backend)
    mesh = "devices that split the windows, and devices that split the weights (Flax)"
    parser.add_argument("--mesh", default="1,1", metavar="DATA,MODEL", help=mesh)
    device = "torch's name of the device, such as cuda (default: a GPU if there is one)"
    parser.add_argument("--device", help=device)


def _build(arguments: argparse.Namespace) -> "Model":
    from vasae_jax.extract.backends import load_model, make_mesh

    return load_model(
        arguments.model,
        arguments.backend,
        arguments.compute_dtype,
        mesh=make_mesh(arguments.mesh),
        device=arguments.device,
    )
