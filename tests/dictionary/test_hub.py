"""Repositories of the hub that are in its local copy: read without a network."""

import os
import shutil
import subprocess
import sys

from dictionary_fixtures import F, dictionary
from foreign_fixtures import weights, write_gemma_scope

from vasae_jax.interop.libraries import export_layout

COMMIT = "0" * 40


def hub_of(root, name):
    """The folder of a repository's snapshot in a hub's local copy under ``root``."""
    home = root / "hub" / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    return snapshot


def offline(root, code):
    """What a fresh interpreter prints after ``code``, with the hub's local copy alone."""
    own = {"HF_HOME": str(root), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **own}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_dictionary_of_the_hub(tmp_path):
    export_layout(dictionary(), "huggingface", hub_of(tmp_path, "me/mine"))
    code = "import vasae_jax as vj; print(vj.load('hf://me/mine').d_sae)"
    assert offline(tmp_path, code) == str(F)


def test_another_librarys_sae_of_the_hub(tmp_path):
    made = write_gemma_scope(tmp_path / "made", weights())
    place = hub_of(tmp_path, "me/scope")
    shutil.copytree(tmp_path / "made" / "layer_3", place / "layer_3")
    folder = made.relative_to(tmp_path / "made")
    code = (
        "from vasae_jax.interop.libraries import read_foreign;"
        f"print(read_foreign('me/scope', 'gemma_scope', '{folder}').site.layer)"
    )
    assert offline(tmp_path, code) == "3"


def test_a_repository_that_is_not_there_is_one_sentence(tmp_path):
    code = (
        "import vasae_jax as vj\n"
        "try:\n    vj.load('hf://me/mine')\n"
        "except vj.UserError as error:\n    print(error)"
    )
    said = offline(tmp_path, code)
    assert said.startswith("me/mine is neither a local path nor to be had") and "\n" not in said
