"""Commands of the hostile set as processes, and the settings of a small run."""

import os
import subprocess
import sys
from dataclasses import dataclass

SETTINGS = (
    *("--data.layer=1", "--data.batch=64", "--data.readers=4", "--sae.d-sae=32", "--sae.k=4"),
    *("--anchor.kind=embedding", "--mesh.data=1", "--run.steps=4", "--run.log-every=1"),
)
ENVIRONMENT = {"JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    said: str
    """On stderr; bytes that are not UTF-8 as escapes."""


def vasae(*words, environment=(), without=(), **options):
    """``vasae`` in a process of its own; a traceback anywhere fails the test."""
    names = {key: value for key, value in os.environ.items() if key not in without}
    done = subprocess.run(
        [sys.executable, "-m", "vasae_jax.cli.main", *words],
        env=names | ENVIRONMENT | dict(environment),
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options,
    )
    said = (done.stderr or b"").decode("utf-8", "backslashreplace")
    assert "Traceback" not in said + (done.stdout or b"").decode("utf-8", "backslashreplace")
    assert "not foreseen" not in said
    return Ended(done.returncode, said)
