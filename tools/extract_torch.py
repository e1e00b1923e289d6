#!/usr/bin/env python3
"""Extract an activation cache with PyTorch: any causal language model of transformers."""

import argparse
import sys

from vasae_jax.extract.arguments import main
from vasae_jax.extract.model import Model


def options(parser: argparse.ArgumentParser) -> None:
    """The arguments of this tool alone."""
    parser.add_argument("--device", default="cpu", help="torch's name of the device, such as cuda")


def build(arguments: argparse.Namespace) -> Model:
    """The model that the arguments name."""
    from vasae_jax.extract.backends import load_model

    dtype = arguments.compute_dtype
    return load_model(arguments.model, "torch", dtype, device=arguments.device)


if __name__ == "__main__":
    sys.exit(main(__doc__, options, build))
