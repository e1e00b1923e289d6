"""What the step asks of the compiler, by the platform that it is compiled for."""

from jax.sharding import Mesh

TILES_KIB = "65536"
"""Kibibytes of a TPU's on-chip memory for the tiles of one operation; the default is 16384. Half of
what a v5e or v6e has. With less, a product that also masks or converts takes up to half as
long again."""


def options(mesh: Mesh) -> dict[str, str]:
    """Compiler options for a step over ``mesh``: none but on a TPU."""
    tpu = mesh.devices.flat[0].platform == "tpu"
    return {"xla_tpu_scoped_vmem_limit_kib": TILES_KIB} if tpu else {}
