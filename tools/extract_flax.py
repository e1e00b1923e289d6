#!/usr/bin/env python3
"""Extract an activation cache with JAX: GPT-2 and Llama-family models, no torch needed."""

import argparse
import sys

from vasae_jax.extract.arguments import main
from vasae_jax.extract.model import Model
from vasae_jax.utils.errors import UserError


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
    from vasae_jax.lm import load_lm

    return load_lm(arguments.model, arguments.compute_dtype, make_mesh(arguments.mesh))


def make_mesh(shape: str):
    """A mesh of ``"DATA,MODEL"`` devices, None for one device; raises UserError."""
    import jax

    try:
        data, model = (int(part) for part in shape.split(","))
    except ValueError as error:
        raise UserError(f"mesh is {shape!r}; expected two numbers as in 4,2") from error
    if not 1 <= data * model <= jax.device_count() or data < 1:
        raise UserError(f"mesh {shape} needs {data * model} devices; {jax.device_count()} found")
    if data * model == 1:
        return None
    auto = jax.sharding.AxisType.Auto
    return jax.make_mesh((data, model), ("data", "model"), axis_types=(auto, auto))


if __name__ == "__main__":
    sys.exit(main(__doc__, options, build))
