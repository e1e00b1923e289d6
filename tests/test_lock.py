"""tests/requirements.lock fits setup.cfg, on both interpreters, and every file has a hash."""

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
BLOCKS = re.split(
    r"\n(?=\w)", (ROOT / "tests" / "requirements.lock").read_text(encoding="utf-8").strip()
)[1:]
LOCKED = [Requirement(block.split("\n")[0].rstrip("\\ ")) for block in BLOCKS]


def asked():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    text = setup["options"]["install_requires"] + setup["options.extras_require"]["test"]
    return [Requirement(line) for line in text.strip().splitlines()]


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_what_setup_asks_for_is_locked_to_a_version_that_it_allows(python):
    here = {"python_version": python, "python_full_version": f"{python}.7", "sys_platform": "linux"}
    locked = {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==")
        for each in LOCKED
        if each.marker is None or each.marker.evaluate(here)
    }
    assert len(locked) > 80
    for each in asked():
        name = canonicalize_name(each.name)
        assert name == "torch" or each.specifier.contains(locked[name]), f"{each}: {locked[name]}"


def test_every_package_has_hashes_and_none_has_an_address():
    for block in BLOCKS:
        first, *rest = block.splitlines()
        assert re.match(r"[a-z0-9.-]+==\S+( ; .*)? \\$", first)
        assert rest and all(re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$", x) for x in rest)
