"""Check what would be released: build both archives, look into them, and use the wheel.

    python tools/release_check.py

Needs the packages build, uv, mypy and pyright. Nothing of the checkout is changed.
"""

import argparse
import configparser
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]
USER = """\
from pathlib import Path

import numpy as np

import vasae_jax as vj

sae = vj.load("somewhere")
z: np.ndarray = sae.encode(np.zeros((1, sae.d_in), np.float32))
text: str = sae.names(0).verdict
found: int = sae.search("street")[0].feature
part: float = sae.explain(z[0])[0].part
run: Path = vj.train(vj.Config())
explained: float = vj.evaluate(run).unmasked.variance_explained
rows: np.ndarray = vj.open_cache("somewhere").acts(3, "heldout").read(0, 10)
width: int = vj.open_trained(str(run)).config.sae.d_sae
wrong: int = sae.names(0).verdict  # EXPECTED
"""
"""A user's program with one mistake, which a type checker can see only if py.typed is there."""
UV = (sys.executable, "-m", "uv", "pip")
PYTHONS = ("3.11", "3.12", "3.13")
"""Those that JAX has wheels for."""
IN_SDIST = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "setup.cfg", "pyproject.toml")


class Failed(Exception):
    """A sentence on what is not as it should be."""


def main() -> int:
    """Run every check; returns the exit code."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            sdist, wheel = build(Path(scratch))
            check_version(wheel)
            check_content(sdist, wheel)
            check_use(wheel, Path(scratch))
            check_types(wheel, Path(scratch))
            check_whole(wheel, Path(scratch))
            check_extras(wheel)
        except Failed as failed:
            print(f"release check: {failed}", file=sys.stderr)
            return 1
    print("release check: both archives are as they should be")
    return 0


def build(scratch: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    clone, out = scratch / "clone", scratch / "dist"
    run("git", "clone", "-q", str(ROOT), str(clone))
    run(sys.executable, "-m", "build", "--outdir", str(out), str(clone))
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def check_version(wheel: Path) -> None:
    """The version is said in one place, and the changelog knows it."""
    said = wheel.name.split("-")[1]
    source = (ROOT / "vasae_jax" / "system" / "version.py").read_text()
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    if f'"{said}"' not in source or not setup["metadata"]["version"].startswith("attr:"):
        raise Failed(f"the wheel is {said}; expected the version of vasae_jax/system/version.py")
    if f"## {said}" not in (ROOT / "CHANGELOG.md").read_text():
        raise Failed(f"CHANGELOG.md has no section {said}")


def check_content(sdist: Path, wheel: Path) -> None:
    """The wheel holds the package alone, with its marker of types; the sdist what builds it."""
    inside = zipfile.ZipFile(wheel).namelist()
    foreign = [n for n in inside if not n.startswith("vasae_jax/") and ".dist-info/" not in n]
    if foreign or "vasae_jax/py.typed" not in inside:
        raise Failed(f"the wheel holds {foreign or 'no vasae_jax/py.typed'}")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    missing = [name for name in IN_SDIST if name not in names]
    if missing:
        raise Failed(f"the sdist lacks {', '.join(missing)}")


def check_use(wheel: Path, scratch: Path) -> None:
    """With NumPy as its only neighbour the package imports, and its command says its version."""
    home = scratch / "alone"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    run(python, "-m", "pip", "install", "-q", "--no-deps", str(wheel), "numpy")
    run(python, "-c", "import vasae_jax as vj; vj.load; vj.Dictionary; vj.UserError")
    said = run(str(home / "bin" / "vasae"), "--version")
    if wheel.name.split("-")[1] not in said:
        raise Failed(f"vasae --version says {said!r}")


def check_types(wheel: Path, scratch: Path) -> None:
    """mypy and pyright see the types of the installed package: the one mistake, and no other."""
    python = str(scratch / "alone" / "bin" / "python")
    program = scratch / "user.py"
    program.write_text(USER)
    line = 1 + USER.splitlines().index(next(x for x in USER.splitlines() if "EXPECTED" in x))
    mypy = [sys.executable, "-m", "mypy", "--strict", f"--python-executable={python}"]
    pyright = [sys.executable, "-m", "pyright", f"--pythonpath={python}"]
    for tool in (mypy, pyright):
        done = subprocess.run([*tool, str(program)], capture_output=True, text=True, cwd=scratch)
        errors = [text for text in done.stdout.splitlines() if "error:" in text]
        if len(errors) != 1 or f"user.py:{line}:" not in errors[0]:
            raise Failed(
                f"{tool[2]} says {done.stdout[-500:]!r}; expected one error in line {line}"
            )


def check_whole(wheel: Path, scratch: Path) -> None:
    """With all that it needs, from wheels alone, every public name is there without a compiler."""
    home = scratch / "whole"
    venv.create(home, with_pip=False)
    python = str(home / "bin" / "python")
    run(*UV, "install", "-q", "--python", python, "--only-binary", ":all:", str(wheel))
    names = "import vasae_jax as vj; [getattr(vj, name) for name in vj.__all__]"
    run(python, "-c", names, PATH="", CC="", CXX="")


def check_extras(wheel: Path) -> None:
    """All extras at once, and so each, resolve on each Python, from wheels alone."""
    with zipfile.ZipFile(wheel) as archive:
        (file,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        extras = message_from_bytes(archive.read(file)).get_all("Provides-Extra", [])
    wanted = f"vasae-jax[{','.join(extras)}] @ {wheel.as_uri()}"
    for version in PYTHONS:
        told = "--only-binary", ":all:", "--python-version", version
        run(*UV, "compile", "-q", *told, "-", given=wanted)


def run(*command: str, given: str = "", **environment: str) -> str:
    """What a command prints that is ``given`` a standard input; Failed where it fails."""
    env = os.environ | environment
    done = subprocess.run(command, input=given, capture_output=True, text=True, env=env)
    if done.returncode:
        raise Failed(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
