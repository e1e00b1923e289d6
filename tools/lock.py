#!/usr/bin/env python3
"""The lock of the test environment: every package but torch, by version and hash of its files.

    python tools/lock.py make                    # write tests/requirements.lock anew; needs uv
    pip install --no-deps --require-hashes -r tests/requirements.lock
    python tools/lock.py check                   # does this environment have what the lock says?
    pip-audit --disable-pip --no-deps --require-hashes -r tests/requirements.lock

One file serves Python 3.11 and 3.12: markers tell where they differ. torch is not in it, nor what a
build of it for CUDA brings: its builds for CPU and CUDA have the same version and other files, and
come from different places. setup.cfg has its version.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "tests" / "requirements.lock"
FREE = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)$")
"""Packages that are left out: torch, and those of its CUDA builds."""
OURS = {"vasae-jax", "pip", "setuptools", "wheel"}
"""What else may be there: this package, and what a virtual environment begins with."""
COMMAND = [
    "uv", "pip", "compile", "setup.cfg", "--extra", "test", "--universal",
    "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header", "--no-config",
    "--quiet",
]  # fmt: skip


def main() -> None:
    """Make the lock, or check the environment against it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("verb", choices=("make", "check"))
    if parser.parse_args().verb == "make":
        LOCK.write_text(made())
        return
    wrong = list(problems())
    print("\n".join(wrong) or f"as {LOCK.relative_to(ROOT)} says")
    sys.exit(bool(wrong))


def made() -> str:
    """The lock's text, of the newest versions that setup.cfg allows."""
    text = subprocess.run(COMMAND, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    blocks = re.split(r"\n(?=\S)", text.strip())
    kept = [block for block in blocks if not FREE.match(block.partition("==")[0])]
    return "# python tools/lock.py make\n" + "\n".join(kept) + "\n"


def locked() -> Iterator[Requirement]:
    """The lock's packages, of every interpreter and system."""
    for line in LOCK.read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            yield Requirement(line.rstrip("\\ "))


def problems() -> Iterator[str]:
    """What this environment has otherwise than the lock says."""
    here = {canonicalize_name(found.name): found.version for found in distributions()}
    wanted = {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==")
        for each in locked()
        if each.marker is None or each.marker.evaluate()
    }
    for name, version in sorted(wanted.items()):
        if here.get(name) != version and name not in OURS:
            yield f"{name} is {here.get(name, 'not installed')}; expected {version}"
    for name in sorted(here.keys() - wanted.keys() - OURS):
        if not FREE.match(name):
            yield f"{name} {here[name]} is installed; expected no package that the lock lacks"


if __name__ == "__main__":
    main()
