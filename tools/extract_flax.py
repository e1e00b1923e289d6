#!/usr/bin/env python3
"""Extract an activation cache with JAX: GPT-2 and Llama-family models, no torch needed."""

import argparse
import sys

from vasae_jax.extract.arguments import main
from vasae_jax.extract.model import Model


def options(parser: argparse.ArgumentParser) -> None:
    """The arguments of this tool alone."""
    parser.add_argument(
        "--backend",
        choices=("flax", "hf-flax"),
        default="flax",
        help="flax: this package's models; hf-flax: the Flax classes of transformers < 5",
    )
    parser.add_argument(
        "--mesh",
        default="1,1",
        metavar="DATA,MODEL",
        help="devices that split the windows, and devices that split the weights (flax)",
    )


def build(arguments: argparse.Namespace) -> Model:
    """The model that the arguments name."""
    if arguments.backend == "hf-flax":
        from vasae_jax.extract.hf_flax import HfFlaxLM

        return HfFlaxLM(arguments.model, arguments.compute_dtype)
    from vasae_jax.extract.backends import load_model, make_mesh

    mesh = make_mesh(arguments.mesh)
    return load_model(arguments.model, "flax", arguments.compute_dtype, mesh=mesh)


if __name__ == "__main__":
    sys.exit(main(__doc__, options, build))
