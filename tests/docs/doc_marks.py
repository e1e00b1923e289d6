"""The commands of the docs that tests/docs/test_run.py does not run, and why; and what makes the
others small.

Each key is the beginning of one command or of several. Of two that fit the longer one counts.
"""

IN_CI = {
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]'": '"$command"',
    "python3 -m venv .venv": "python3 -m venv .venv",
    ". .venv/bin/activate": ". .venv/bin/activate",
    "pip install --no-deps --require-hashes": "--require-hashes -r tests/requirements.lock",
    "python tools/lock.py check": "python tools/lock.py check",
    "python -m pytest": "python -m pytest",
    "python -m pytest -m slow": "slow and not hostile",
    "python -m pytest -m hostile": "-m hostile",
    'python -m pytest -m "" tests/report': '-m "" tests/report/test_browser*.py',
    "ruff check": "ruff check . && ruff format --check .",
    "mypy": "mypy",
    "lint-imports": "lint-imports",
    "mkdocs build": "mkdocs build",
    "python tools/release_check.py": "python tools/release_check.py",
}
"""Commands that .ci/run runs itself, and the words there that do so."""

NOT_RUN = {
    "python3 -m venv .venv && .venv/bin/pip install -q '.[quickstart]'": "downloads, minutes: "
    "tests/cli/test_cli.py runs its verb with a tiny model",
    "pip install '.[quickstart]'": "release_check.py installs the wheel",
    "vasae quickstart": "a download of 93 MB, minutes: tests/cli/test_cli.py",
    ".venv/bin/pip install -e": "CI installs the lock",
    "python tools/lock.py make": "it would change the lock",
    "pipx run pip-audit": "needs a database of vulnerabilities",
    ".ci/run": "it runs this test",
    "python tools/soak.py": "ten minutes: tests/test_soak.py is a short one",
    "python tools/planted/planted.py": "minutes: tests/test_planted.py is a small one",
    "python tools/bench/": "a bench: minutes, on an idle machine",
    "tools/bench/": "all benches: an hour, on an idle machine",
    "npm pack": "another registry's package",
    "python tools/texts/mixed.py": "packages of three registries: tests/dev/test_texts.py",
    "python tools/kinds.py": "of a run on that text: tests/test_kinds.py",
    "vasae extract --model MODEL.gguf": "half an hour, for published figures",
    "vasae sweep configs/sweeps/recipes.py": "hours: tests/sweep/test_recipes.py",
    "vasae sweep table OUT": "of that sweep: tests/sweep/test_recipes.py",
    "vasae sweep plot OUT": "of that sweep: tests/sweep/test_recipes.py",
    "vasae train CONFIG --data.layer=9 --sae.d-sae=0": "hours, for published figures",
    "vasae train configs/quickstart.py --sae.activation": "an activation that only tests have: "
    "tests/dev/test_extend_activation.py",
    "vasae eval runs/soft": "of that run: tests/dev/test_extend_activation.py",
    "vasae export runs/soft": "of that run: tests/dev/test_extend_activation.py",
    "vasae import google/": "needs the hub: tests/interop/",
    "vasae train CONFIG.py --mesh.model=16": "needs a pod: tests/distributed/test_distributed.py",
    "vasae train CONFIG.py --distributed": "needs two hosts: tests/distributed/test_distributed.py",
    "srun": "needs Slurm",
    "for i in": "needs eight GPUs, or a cloud's command: tests/sweep/test_killed_shards.py",
    "vasae extract --model M ": "one job of 16: tests/cache/test_cache_parts.py",
    "vasae cache finish": "joins these: tests/cache/test_cache_parts.py",
    "python tools/aot.py": "needs libtpu: tests/aot/",
    "vasae sweep grid.py --on ray": "needs Ray: tests/sweep/test_ray.py",
}
"""Why a command is not run; its arguments are parsed all the same."""

TRAINED = "--sae.d-sae=128 --run.steps=6 --run.log-every=3 --data.batch=64 --data.readers=2"
EXTRACTED = "--overwrite --chunk-rows=128 --max-rows=3000"
SMALL = {
    "vasae extract": EXTRACTED,
    "vasae train": f"{TRAINED} --mesh.data=1",
    "vasae train CONFIG": "--run.overwrite",
    "vasae sweep configs": f"{TRAINED} --mesh.data=1 --run.checkpoint-every=3",
    "vasae sweep plot": "--overwrite",
    "vasae eval": "--overwrite",
    "vasae name": "--overwrite",
    "vasae report": "--overwrite",
    "vasae heatmap": "--overwrite",
    "vasae export": "--overwrite",
    "vasae import": "--overwrite",
    "vasae cache import": "--overwrite --chunk-rows=128",
    "vasae cache export": "--overwrite",
}
"""What is put behind a command that is run."""

PYTHON_NOT_RUN = {
    "import json\nimport sys": "tests/cache/test_cache.py runs it",
    "import json\nfrom pathlib": "tests/dictionary/test_dictionary.py runs it",
    "import asyncio\nimport json": "needs delphi: tests/interop/test_activity_layouts.py",
    "import json\nfrom pathlib import Path\n\nfrom neuronpedia": "needs a server: "
    "tests/interop/test_activity_layouts.py",
    "from sae_lens": "needs the libraries: tests/interop/test_real_libraries.py",
    "import optuna": "needs Optuna: tests/sweep/test_optuna.py",
    '"""An activation that': "tests/dev/test_extend_activation.py runs it",
    '"""A metric that': "tests/dev/test_extend_metric.py runs it",
    "@dataclass(frozen=True)\nclass MoreMetrics": "tests/dev/test_extend_metric.py runs it",
    '"""A library that': "tests/dev/test_extend_library.py runs it",
}
"""Blocks of Python that are not run, by their beginning, and why."""


def mark(table: dict[str, str], text: str) -> str | None:
    """The key of ``table`` that ``text`` begins with, the longest one."""
    return max((key for key in table if text.startswith(key)), key=len, default=None)


def marked(command: str) -> str | None:
    """The mark for which a command is not run, if it has one."""
    return mark(IN_CI | NOT_RUN, command)
