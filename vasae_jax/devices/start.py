"""What a command settles about JAX before it is loaded, through the variables that JAX reads."""

import glob
import importlib.util
import os
import sys
from pathlib import Path

_PCI_VENDORS = "/sys/bus/pci/devices/*/vendor"
_TPU_NODES = ("/dev/accel*", "/dev/vfio/[0-9]*")
_GOOGLE = "0x1ae0"
_NETWORK = "0x0042"
"""Google's network card, which its machines without a TPU have too."""
_SAID = ("JAX_PLATFORMS", "JAX_FORCE_TPU_INIT", "TPU_LIBRARY_PATH", "TPU_NAME")
"""Set by a user, or by a platform, that has its own mind about TPUs."""


def pass_over_absent_tpu() -> None:
    """Keep JAX from trying a TPU that is not there, which takes time and prints warnings.

    It would try wherever libtpu is installed, as for ``tools/aot.py``. Nothing happens where a
    plugin of JAX's is installed, since its devices would have to be named too.
    """
    if "jax" in sys.modules or any(name in os.environ for name in _SAID):
        return
    plugins, tpu = map(importlib.util.find_spec, ("jax_plugins", "libtpu"))
    if tpu is not None and plugins is None and not _may_have_tpu():
        os.environ["JAX_PLATFORMS"] = "cpu"


def _may_have_tpu() -> bool:
    if any(glob.glob(nodes) for nodes in _TPU_NODES):
        return True
    return any(
        _word(vendor) == _GOOGLE and _word(vendor.with_name("device")) != _NETWORK
        for vendor in map(Path, glob.glob(_PCI_VENDORS))
    )


def _word(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
