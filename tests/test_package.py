"""The package as a whole: its public names, and what importing it does not do."""

import pkgutil
import subprocess
import sys

import pytest

import vasae_jax

ROOMS = sorted(f"vasae_jax.{module.name}" for module in pkgutil.iter_modules(vasae_jax.__path__))


def run(code):
    """What a fresh interpreter says of itself after ``code``; it must not fail."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("name", vasae_jax.__all__)
def test_every_public_name_is_there(name):
    assert getattr(vasae_jax, name) is not None
    assert name in dir(vasae_jax)


def test_another_name_is_no_attribute():
    with pytest.raises(AttributeError, match="nothing"):
        vasae_jax.nothing  # noqa: B018 (looking it up is the test)


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("vasae_jax", {"jax", "numpy"}),
        ("vasae_jax.config.settings, vasae_jax.cli.main", {"jax", "torch"}),
    ],
)
def test_importing_is_light(modules, heavy):
    loaded = run(f"import sys, {modules}; print(*sys.modules)")
    assert "vasae_jax" in loaded
    assert not heavy & set(loaded)


def test_importing_every_room_starts_no_device():
    found = run(
        f"import importlib; [importlib.import_module(room) for room in {ROOMS!r}];"
        "from jax._src import xla_bridge; print('started', *xla_bridge._backends)"
    )
    assert found == ["started"]
