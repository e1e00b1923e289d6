#!/usr/bin/env python3
"""Lock the packages of the test environment (all but torch) by version and file hashes.

    python tools/lock.py make                    # write tests/requirements.lock; needs uv
    pip install --no-deps --require-hashes -r tests/requirements.lock
    python tools/lock.py check                   # compare this environment with the lock
    pip-audit --disable-pip --no-deps --require-hashes -r tests/requirements.lock

The file is for Python 3.11 and 3.12, with markers where they differ. It leaves out torch and the
packages of its CUDA builds: the CPU and CUDA builds have the same version but other files, from
other indexes. setup.cfg has the version of torch.
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
NOT_LOCKED = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)$")
"""Packages left out: torch, and those of its CUDA builds."""
OURS = {"vasae-jax", "pip", "setuptools", "wheel"}
"""Packages that need no lock: this one, and those of an empty virtual environment."""
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
        LOCK.write_text(make_lock(), encoding="utf-8")
        return
    differences = list(compare())
    print("\n".join(differences) or f"equal to {LOCK.relative_to(ROOT)}")
    sys.exit(bool(differences))


def make_lock() -> str:
    """The text of a lock of the newest versions that setup.cfg allows."""
    text = subprocess.run(COMMAND, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    blocks = re.split(r"\n(?=\S)", text.strip())
    kept = [block for block in blocks if not NOT_LOCKED.match(block.partition("==")[0])]
    return "# python tools/lock.py make\n" + "\n".join(kept) + "\n"


def locked() -> Iterator[Requirement]:
    """The packages of the lock, for all interpreters and systems."""
    for line in LOCK.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith((" ", "#")):
            yield Requirement(line.rstrip("\\ "))


def compare() -> Iterator[str]:
    """Yield the differences between this environment and the lock."""
    installed = {canonicalize_name(each.name): each.version for each in distributions()}
    wanted = {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==")
        for each in locked()
        if each.marker is None or each.marker.evaluate()
    }
    for name, version in sorted(wanted.items()):
        if installed.get(name) != version and name not in OURS:
            yield f"{name} is {installed.get(name, 'not installed')}; expected {version}"
    for name in sorted(installed.keys() - wanted.keys() - OURS):
        if not NOT_LOCKED.match(name):
            yield f"{name} {installed[name]} is installed; expected no package that the lock lacks"


if __name__ == "__main__":
    main()
