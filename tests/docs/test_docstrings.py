"""Every example in a docstring, run."""

import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cache_fixtures import make_cache
from dictionary_fixtures import D, dictionary
from sweep_fixtures import make_base

import vasae_jax as vj
from vasae_jax.config.overrides import parse_overrides
from vasae_jax.dictionary.files import write_dictionary

PACKAGE = Path(vj.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.glob("**/*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
PUBLIC = ("load", "open_cache", "train", "evaluate", "SAE")
"""What has an example of its own."""


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the examples take as given."""
    home = tmp_path_factory.mktemp("examples")
    write_dictionary(home / "named" / "dictionary.npz", dictionary())
    make_cache(home)
    base = make_base(str(home / "cache"))
    config = parse_overrides(base, [f"--run.out={home / 'run'}"], "examples")
    vj.train(config)
    return {
        "vj": vj,
        "Path": Path,
        "folder": home / "named",
        "rows": np.random.default_rng(1).normal(size=(50, D)).astype(np.float32) * 3,
        "url": str(home / "cache"),
        "config": config,
    }


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module, names):
    tests = doctest.DocTestFinder().find(importlib.import_module(module))
    examples = [test for test in tests if test.examples]
    assert examples
    for test in examples:
        test.globs = dict(names)
        assert doctest.DocTestRunner(verbose=False).run(test).failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_what_one_begins_with_has_an_example(name):
    assert ">>> " in getattr(vj, name).__doc__


def test_opening_a_run_from_python_says_nothing(names):
    code = f"import vasae_jax as vj; vj.open_trained({names['config'].run.out!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
