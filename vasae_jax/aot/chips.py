"""Figures of TPU chips, and slices of them as compile targets without the hardware."""

import importlib.util
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from vasae_jax.distributed.mesh import AXES
from vasae_jax.utils.errors import UserError, first_line


@dataclass(frozen=True)
class Chip:
    """One chip; figures from the vendor's public system pages.

    Attributes:
        accelerator: what libtpu calls a slice of it, before the number.
        cores: by which that number counts (v5p counts two a chip).
        flops: bfloat16 peak per second.
        hertz: clock, from the peak and the matrix units' size.
        hbm: bytes of memory.
        ici_rate: bytes a second that a chip sends to its neighbours, all links together.
    """

    accelerator: str
    cores: int
    flops: float
    hertz: float
    hbm: float
    ici_rate: float


CHIPS = {
    # 4 matrix units of 128 x 128, two flops a cell and cycle: 197e12 at 1.5 GHz.
    "v5e": Chip("v5litepod", cores=1, flops=197e12, hertz=1.5e9, hbm=16 * 2**30, ici_rate=200e9),
    # 2 cores, each 4 units of 128 x 128, compiled as one device: 459e12 at 1.75 GHz.
    "v5p": Chip("v5p", cores=2, flops=459e12, hertz=1.75e9, hbm=95 * 2**30, ici_rate=600e9),
    # 4 units of 256 x 256 (as 2 * 262144 flops a cycle): 918e12 at 1.75 GHz.
    "v6e": Chip("v6e", cores=1, flops=918e12, hertz=1.75e9, hbm=32 * 2**30, ici_rate=448e9),
}


@dataclass(frozen=True)
class Slice:
    """A TPU slice to compile for."""

    name: str
    chip: Chip
    devices: Sequence[jax.Device]

    def mesh(self, member: int, model: int) -> Mesh:
        """All its devices, with the axes of a run's mesh; UserError if these do not fit."""
        count = len(self.devices)
        if min(member, model) < 1 or count % (member * model):
            raise UserError(
                f"member={member} x model={model} do not divide the {count} devices of "
                f"{self.name}; expected axes that do"
            )
        grid = np.array(self.devices).reshape(member, -1, model)
        return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def open_slice(name: str) -> Slice:
    """The slice of a topology such as ``v5e:4x4``; needs libtpu, but no TPU.

    Must run before JAX has looked for devices.

    Raises:
        UserError: libtpu is not installed, or knows no such topology.
    """
    kind, _, grid = name.partition(":")
    sizes = grid.split("x")
    if kind not in CHIPS or not all(size.isdecimal() for size in sizes):
        raise UserError(
            f"--topology is {name!r}; expected one of {', '.join(CHIPS)} and a grid, as in v5e:4x4"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu is not installed; expected pip install 'vasae-jax[aot]'")
    chip = CHIPS[kind]
    count = math.prod(map(int, sizes)) * chip.cores
    # Read by libtpu when it is loaded, in place of asking the machine's metadata server.
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{chip.accelerator}-{count}")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    from jax.experimental import topologies

    try:
        topology = topologies.get_topology_desc(name, platform="tpu")
    except Exception as error:  # libtpu raises many kinds
        raise UserError(f"libtpu has no topology {name} ({first_line(error)})") from error
    return Slice(name, chip, topology.devices)
