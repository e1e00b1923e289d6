"""Check a release: build both archives, look into them, and use the wheel.

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
part: float = sae.explain(z[0])[0].contribution
run: Path = vj.train(vj.Config())
explained: float = vj.evaluate(run).unmasked.variance_explained
rows: np.ndarray = vj.open_cache("somewhere").acts(3, "heldout").read(0, 10)
width: int = vj.open_trained(str(run)).config.sae.d_sae
wrong: int = sae.names(0).verdict  # EXPECTED
"""
"""A user's program with one mistake, which type checkers find only if there is a py.typed."""
UV = (sys.executable, "-m", "uv", "pip")
PYTHONS = ("3.11", "3.12", "3.13")
"""Those that JAX has wheels for."""
IN_WHEEL = ("vasae_jax/py.typed", "vasae_jax/extract/english.jsonl.gz")
IN_SDIST = ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "setup.cfg", "pyproject.toml")


class Failed(Exception):
    """A check failed; the message says which and how."""


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
            check_install(wheel, Path(scratch))
            check_extras(wheel)
        except Failed as failed:
            print(f"release check: {failed}", file=sys.stderr)
            return 1
    print("release check: both archives passed")
    return 0


def build(scratch: Path) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    clone, out = scratch / "clone", scratch / "dist"
    run("git", "clone", "-q", str(ROOT), str(clone))
    run(sys.executable, "-m", "build", "--outdir", str(out), str(clone))
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def check_version(wheel: Path) -> None:
    """The wheel has the package's version, and the changelog has a section on it."""
    version = wheel.name.split("-")[1]
    source = (ROOT / "vasae_jax" / "__init__.py").read_text(encoding="utf-8")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    if f'"{version}"' not in source or not setup["metadata"]["version"].startswith("attr:"):
        raise Failed(f"the wheel is {version}; expected the version of vasae_jax/__init__.py")
    if f"## {version}" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise Failed(f"CHANGELOG.md has no section {version}")


def check_content(sdist: Path, wheel: Path) -> None:
    """The wheel has only the package, with its data; the sdist has what is needed to build it."""
    inside = zipfile.ZipFile(wheel).namelist()
    foreign = [n for n in inside if not n.startswith("vasae_jax/") and ".dist-info/" not in n]
    if foreign:
        raise Failed(f"the wheel holds {foreign}")
    missing = [name for name in IN_WHEEL if name not in inside]
    if missing:
        raise Failed(f"the wheel lacks {', '.join(missing)}")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    missing = [name for name in IN_SDIST if name not in names]
    if missing:
        raise Failed(f"the sdist lacks {', '.join(missing)}")


def check_use(wheel: Path, scratch: Path) -> None:
    """With NumPy alone the package can be imported, and its command prints the version."""
    home = scratch / "alone"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    run(python, "-m", "pip", "install", "-q", "--no-deps", str(wheel), "numpy")
    run(python, "-c", "import vasae_jax as vj; vj.load; vj.Dictionary; vj.UserError")
    output = run(str(home / "bin" / "vasae"), "--version")
    if wheel.name.split("-")[1] not in output:
        raise Failed(f"vasae --version prints {output!r}")


def check_types(wheel: Path, scratch: Path) -> None:
    """mypy and pyright find the one mistake in USER, through the types of the installed package."""
    python = str(scratch / "alone" / "bin" / "python")
    program = scratch / "user.py"
    program.write_text(USER, encoding="utf-8")
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


def check_install(wheel: Path, scratch: Path) -> None:
    """Installed with its requirements, without a compiler, every public name loads."""
    home = scratch / "installed"
    venv.create(home, with_pip=False)
    python = str(home / "bin" / "python")
    run(*UV, "install", "-q", "--python", python, "--only-binary", ":all:", str(wheel))
    names = "import vasae_jax as vj; [getattr(vj, name) for name in vj.__all__]"
    run(python, "-c", names, PATH="", CC="", CXX="")


def check_extras(wheel: Path) -> None:
    """All extras together can be resolved from wheels on each Python."""
    with zipfile.ZipFile(wheel) as archive:
        (file,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        extras = message_from_bytes(archive.read(file)).get_all("Provides-Extra", [])
    wanted = f"vasae-jax[{','.join(extras)}] @ {wheel.as_uri()}"
    for version in PYTHONS:
        options = "--only-binary", ":all:", "--python-version", version
        run(*UV, "compile", "-q", *options, "-", stdin=wanted)


def run(*command: str, stdin: str = "", **environment: str) -> str:
    """Run a command and return what it prints; raises Failed if it fails."""
    env = os.environ | environment
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=env)
    if done.returncode:
        raise Failed(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
