"""Every test sees eight virtual CPU devices, strict dtype promotion and no rank promotion.

Most of the suite's time would be compiling. So machine code is not optimised, unless XLA_FLAGS
says otherwise (an empty one is XLA's own default), and what one test has compiled is loaded by
the tests and programs that come after it in the session. Tracing makes many small objects that
live long: the collector of reference cycles looks at them seldom (a seventh of the time).
"""

import gc
import os
import shutil
import tempfile
from importlib.metadata import version

import pytest

QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
if version("jaxlib").startswith("0.10."):  # a later one may not know the flag: XLA then aborts
    QUICK += " --xla_cpu_use_fusion_emitters=false"  # half the time of a compilation
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", QUICK)
WORKER = "PYTEST_XDIST_WORKER" in os.environ
"""Whether this process is one of several of a session: it inherits that one's directory."""
PROGRAMS = "JAX_COMPILATION_CACHE_DIR"
os.environ[PROGRAMS] = (
    os.environ[PROGRAMS] if WORKER else tempfile.mkdtemp(prefix="vasae-programs-")
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import jax  # noqa: E402 (the environment first)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(50_000, 20, 100)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the session's programs."""
    if not WORKER:
        shutil.rmtree(os.environ[PROGRAMS], ignore_errors=True)
