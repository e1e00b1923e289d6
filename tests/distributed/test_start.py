"""What a command settles about TPUs before JAX is loaded."""

import importlib.util
import os
import sys

import pytest

from vasae_jax.distributed import hosts as start


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without JAX loaded, with what is given."""

    def make(installed, vendor="0x8086", device="0x0001"):
        slot = tmp_path / "slot"
        slot.mkdir()
        (slot / "vendor").write_text(vendor + "\n")
        (slot / "device").write_text(device + "\n")
        monkeypatch.setattr(start, "_PCI_VENDORS", str(tmp_path / "*/vendor"))
        monkeypatch.setattr(start, "_TPU_NODES", ())
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
        monkeypatch.delitem(sys.modules, "jax")
        for name in start._SAID:
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)

    return make


@pytest.mark.parametrize(
    ("installed", "vendor", "device", "platforms"),
    [
        (["libtpu"], "0x8086", "0x0001", "cpu"),
        (["libtpu"], "0x1ae0", "0x0042", "cpu"),  # a network card
        (["libtpu"], "0x1ae0", "0x0063", None),
        (["libtpu", "jax_plugins"], "0x8086", "0x0001", None),
        ([], "0x8086", "0x0001", None),
    ],
)
def test_a_tpu_is_passed_over_only_where_none_can_be(machine, installed, vendor, device, platforms):
    machine(installed, vendor, device)
    start.pass_over_absent_tpu()
    assert os.environ.get("JAX_PLATFORMS") == platforms


def test_platforms_that_the_user_names_stand(machine, monkeypatch):
    machine(["libtpu"])
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    start.pass_over_absent_tpu()
    assert os.environ["JAX_PLATFORMS"] == "tpu"
