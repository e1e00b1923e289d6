"""Every command and block of Python of the docs that has no mark, run as it stands.

What a command reads lies where it says: a tiny model is called gpt2 and MODEL, a run RUN.
"""

import shlex
from pydoc_data.topics import topics

import numpy as np
import pytest
from cache_fixtures import make_cache
from doc_marks import PYTHON_NOT_RUN, SMALL, mark, marked
from doc_pages import ROOT, typed
from doc_programs import start
from lm_fixtures import VOCAB, gpt2_config, random_model, save_model

pytestmark = pytest.mark.slow
CONFIG = """\
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig

config = Config(
    data=DataConfig(cache="caches/mine", layer=9, batch=64, readers=2),
    sae=SAEConfig(d_sae=64, k=4),
    mesh=MeshConfig(data=1),
    run=RunConfig(out="runs/mine", steps=6, log_every=3),
)
"""
MEANT = {"PATH_OR_HUB_NAME": "gpt2", "MODEL": "gpt2", "CACHE": "caches/mine", "RUN": "runs/mine"}
MEANT |= {"OTHER": "caches/mine", "OWN": "caches/mine"}
"""What the words in capitals mean."""
QUICKSTART = (10, 15, 20)
"""The layers of the quickstart's cache."""
BEFORE = (
    "vasae extract --model MODEL --text my_texts/ --layers 3,9 --out caches/mine",
    "vasae train CONFIG",
    "vasae train CONFIG --run.seed=1 --run.out=RUN2",
    "vasae train CONFIG --sae.method=plain --run.out=BASELINE",
    "vasae export RUN --layout sae_lens --out saes/layer_9",
    "vasae export RUN --out out/quickstart/dictionary.npz",
)
"""What people who read a page have done before."""
ROWS = np.random.default_rng(1).normal(size=(5, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder in which people stand, and what they have before they read."""
    home = tmp_path_factory.mktemp("world")
    for name in ("gpt2", "my_texts", "rows", "peers"):
        (home / name).mkdir()
    save_model(random_model(gpt2_config(n_layer=10, n_positions=128)), home / "gpt2")
    for name in sorted(topics)[:12]:
        (home / "my_texts" / f"{name}.txt").write_text(topics[name], encoding="utf-8")
    rng = np.random.default_rng(0)
    np.save(home / "rows" / "rows.npy", rng.normal(size=(40, 20, 32)).astype(np.float32))
    np.save(home / "rows" / "tokens.npy", rng.integers(1, VOCAB, (40, 20), dtype=np.int32))
    (home / "configs").symlink_to(ROOT / "configs")
    for name, meaning in MEANT.items():
        (home / name).symlink_to(meaning)
    (home / "CONFIG").write_text(CONFIG, encoding="utf-8")
    sizes = {"rows": 4000, "heldout": 1000, "chunk_rows": 128, "shard_rows": 1024}
    make_cache(home / "out" / "quickstart", layers=QUICKSTART, **sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for command in BEFORE:
            run(command)
        yield home


def run(command: str) -> None:
    """Run a command with what makes it small behind it."""
    words = shlex.split(command)
    words = words[1:] if words[0] == "python" else words
    for key, behind in SMALL.items():
        if command.startswith(key):
            words += behind.split()
    assert start(words) == 0, command


def test_the_pages_from_the_first_to_the_last(world):
    for kind, text in dict.fromkeys((found.kind, found.text) for found in typed("sh", "python")):
        if kind == "sh" and not marked(text):
            run(text)
        if kind == "python" and not mark(PYTHON_NOT_RUN, text):
            exec(text, {"rows": ROWS})
