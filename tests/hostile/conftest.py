"""What the hostile set starts from: a cache, and a run on it."""

import pytest
from cache_fixtures import make_cache
from hostile_commands import SETTINGS

from vasae_jax.cli.main import main


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache of one layer."""
    return make_cache(tmp_path_factory.mktemp("hostile"), rows=300, heldout=100, layers=(1,)).url


@pytest.fixture(scope="session")
def run(cache, tmp_path_factory):
    """A finished run, for tests that write nothing into it."""
    out = tmp_path_factory.mktemp("hostile") / "run"
    assert main(["train", f"--data.cache={cache}", f"--run.out={out}", *SETTINGS]) == 0
    return out
