"""What a command sets before JAX is loaded: where compiled programs are kept, and no absent TPU."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest

from vasae_jax.distributed import environment
from vasae_jax.distributed.environment import CACHE_DIR, CACHE_SWITCH, cache_compiled_programs

COMPILES = """
from vasae_jax.distributed.environment import cache_compiled_programs
cache_compiled_programs()
import jax, jax.numpy as jnp
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.split("/")[-1]))
product = jax.jit(lambda x: jnp.sin(x @ x.T))(jnp.arange(12.0).reshape(3, 4))
print(events.count("cache_hits"), events.count("cache_misses"), product.tobytes().hex())
"""


def compile_in_a_process(home):
    """Hits and misses in the cache of programs, the result and stderr of a new process."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environ |= {"VASAE_CACHE": str(home), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", COMPILES]
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    hits, misses, result = done.stdout.split()
    return int(hits), int(misses), result, done.stderr


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Where the first process left its programs, and what it gave."""
    home = tmp_path_factory.mktemp("first")
    return home, compile_in_a_process(home)


@pytest.fixture
def programs(first, tmp_path):
    """The programs of the first process, in a directory that a test may change."""
    shutil.copytree(first[0], tmp_path / "home")
    return sorted((tmp_path / "home").glob("programs/*/*-cache"))


def test_a_second_process_compiles_nothing(first, programs, tmp_path):
    hits, misses, result, _ = first[1]
    assert hits == 0 and misses == len(programs) > 0
    assert compile_in_a_process(tmp_path / "home") == (misses, 0, result, "")


@pytest.mark.fault
def test_an_unfinished_program_is_deleted_and_compiled_again(first, programs, tmp_path):
    _, misses, result, _ = first[1]
    for program in programs:  # as a killed writer leaves it
        program.write_bytes(program.read_bytes()[:100])
        program.with_name(program.name.removesuffix("-cache") + "-atime").unlink()
    assert compile_in_a_process(tmp_path / "home") == (0, misses, result, "")
    assert all(len(program.read_bytes()) > 100 for program in programs)


@pytest.mark.fault
def test_a_damaged_program_is_no_error(first, programs, tmp_path):
    for program in programs:
        program.write_bytes(program.read_bytes()[:100])
    assert compile_in_a_process(tmp_path / "home")[2] == first[1][2]


@pytest.fixture
def without_jax(tmp_path, monkeypatch):
    """A process that has not loaded JAX, whose user has made no choices."""
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setenv("VASAE_CACHE", str(tmp_path / "home"))
    for name in (CACHE_DIR, CACHE_SWITCH, *environment._CACHE_OPTIONS):
        monkeypatch.setenv(name, "")  # so that it is restored at the end
        monkeypatch.delenv(name)
    return tmp_path / "home"


@pytest.mark.parametrize("name", [CACHE_DIR, CACHE_SWITCH])
def test_the_users_own_choice_stands(name, without_jax, monkeypatch):
    monkeypatch.setenv(name, "false")
    cache_compiled_programs()
    assert not without_jax.exists()


def test_another_processor_has_its_own_directory(without_jax, monkeypatch):
    cache_compiled_programs()
    monkeypatch.delenv(CACHE_DIR)
    monkeypatch.setattr(environment, "_cores", lambda: 4096)
    cache_compiled_programs()
    assert len(list((without_jax / "programs").iterdir())) == 2


@pytest.mark.fault
def test_without_a_writable_directory_nothing_is_kept(without_jax):
    without_jax.write_text("not a directory", encoding="utf-8")
    cache_compiled_programs()
    assert CACHE_DIR not in os.environ


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes this a machine with one PCI card and some packages, where JAX is not loaded."""

    def make(installed, vendor="0x8086", device="0x0001"):
        slot = tmp_path / "slot"
        slot.mkdir()
        (slot / "vendor").write_text(vendor + "\n", encoding="utf-8")
        (slot / "device").write_text(device + "\n", encoding="utf-8")
        monkeypatch.setattr(environment, "_PCI_VENDORS", str(tmp_path / "*/vendor"))
        monkeypatch.setattr(environment, "_TPU_NODES", ())
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in installed or None)
        monkeypatch.delitem(sys.modules, "jax")
        for name in environment._USER_CHOICES:
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
def test_a_tpu_is_skipped_only_where_there_is_none(machine, installed, vendor, device, platforms):
    machine(installed, vendor, device)
    environment.skip_absent_tpu()
    assert os.environ.get("JAX_PLATFORMS") == platforms


def test_platforms_that_the_user_names_stand(machine, monkeypatch):
    machine(["libtpu"])
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    environment.skip_absent_tpu()
    assert os.environ["JAX_PLATFORMS"] == "tpu"
