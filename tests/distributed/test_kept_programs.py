"""Programs that one process leaves for the next: whole ones only, and nobody's own directory."""

import os
import subprocess
import sys
import zlib

import pytest

from vasae_jax.distributed import compilation as programs

COMPILES = """
from vasae_jax.distributed.compilation import keep_programs
keep_programs()
import jax, jax.numpy as jnp
found = []
jax.monitoring.register_event_listener(lambda event, **_: found.append(event.split("/")[-1]))
product = jax.jit(lambda x: jnp.sin(x @ x.T))(jnp.arange(12.0).reshape(3, 4))
print(found.count("cache_hits"), product.tobytes().hex())
"""


@pytest.fixture
def shared(tmp_path):
    place = tmp_path / "programs"
    place.mkdir()
    return place


def entries(place):
    return sorted(file.name for file in place.glob("*-cache"))


def test_the_next_process_loads_what_one_compiled(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"VASAE_CACHE": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    said = [
        subprocess.run(
            [sys.executable, "-c", COMPILES],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        for _ in range(2)
    ]
    (none, first), (some, second) = (each.stdout.split() for each in said)
    assert none == "0" and int(some) > 0
    assert first == second
    assert said[1].stderr == ""


def test_a_process_finds_what_others_finished_and_leaves_what_it_made(shared):
    (shared / "old-cache").write_bytes(zlib.compress(b"old"))
    own = programs.begin(shared)
    assert entries(own) == ["old-cache"]
    (own / "new-cache").write_bytes(zlib.compress(b"new"))
    assert entries(shared) == ["old-cache"]
    programs.publish(own, shared)
    assert entries(shared) == ["new-cache", "old-cache"]
    assert not own.exists()


def test_half_a_program_is_left_to_nobody(shared):
    own = programs.begin(shared)
    (own / "half-cache").write_bytes(zlib.compress(os.urandom(1000))[:500])
    programs.publish(own, shared)
    assert entries(shared) == []


def test_only_directories_of_dead_processes_are_swept(shared):
    alive = programs.begin(shared)
    dead = shared / "process-dead"
    dead.mkdir()
    (dead / "lock").touch()
    programs.sweep(shared)
    assert alive.is_dir() and not dead.exists()


def test_the_oldest_are_deleted_beyond_what_is_kept(shared, monkeypatch):
    monkeypatch.setattr(programs, "MOST_BYTES", 250)
    for age, name in enumerate(("b-cache", "a-cache", "c-cache")):
        (shared / name).write_bytes(bytes(100))
        os.utime(shared / name, (0, age))
    programs.publish(programs.begin(shared), shared)
    assert entries(shared) == ["a-cache", "c-cache"]


@pytest.mark.parametrize("name", [programs.PLACE, programs.SWITCH])
def test_the_users_own_choice_stands(name, tmp_path, monkeypatch):
    for other in (programs.PLACE, programs.SWITCH):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.delitem(sys.modules, "jax")
    monkeypatch.setenv(name, "false")
    monkeypatch.setenv("VASAE_CACHE", str(tmp_path))
    programs.keep_programs()
    assert list(tmp_path.iterdir()) == []


def test_another_processor_has_a_directory_of_its_own(monkeypatch):
    here = programs.processor_digest()
    monkeypatch.setattr(programs, "_cores", lambda: 4096)
    assert programs.processor_digest() != here
