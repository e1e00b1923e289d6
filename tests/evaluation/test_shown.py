"""What is measured of a run stands beside its curves."""

import sys

import pytest
from cache_fixtures import make_cache

from vasae_jax.cli.main import main
from vasae_jax.config import Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.training.loop import train


@pytest.fixture
def run(tmp_path):
    cache = make_cache(tmp_path, rows=600, layers=(1,)).url
    config = Config(
        data=DataConfig(cache=cache, layer=1, batch=32, readers=4, shuffle_chunks=2),
        sae=SAEConfig(d_sae=32, k=3, decoder_init="random"),
        mesh=MeshConfig(data=1),
        run=RunConfig(out=str(tmp_path / "run"), steps=2, tensorboard=True),
    )
    train(config)
    return tmp_path / "run"


def shown(run):
    return b"".join(file.read_bytes() for file in (run / "tensorboard").glob("events*"))


def test_figures_of_the_own_cache_alone(run, tmp_path):
    assert b"mismatch" in shown(run)  # the comparison with a full search, after the last step
    other = ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "other.json")]
    assert main(["eval", str(run), *other]) == 0
    assert b"heldout/" not in shown(run)
    assert main(["eval", str(run)]) == 0
    for name in (b"unmasked.variance_explained", b"names.layer.all.hold10"):
        assert b"heldout/" + name in shown(run)
    assert b"heldout/nearest_cosine" in shown(run)


def test_a_board_that_cannot_be_opened_loses_nothing(run, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert main(["eval", str(run)]) == 0
    assert "the figures are not shown: --run.tensorboard needs" in capsys.readouterr().err
    assert (run / "eval-heldout.json").is_file()


def test_files_of_two_measurements_stand_side_by_side(run, capsys):
    """What is measured beside the run by itself is part of the default name."""
    assert main(["eval", str(run)]) == 0
    assert main(["eval", str(run), "--names-by=weights", "--split=train"]) == 0
    assert main(["eval", str(run), f"--anchors={run.parent / 'cache'}"]) == 0
    found = {path.name for path in run.glob("eval*")}
    assert found == {"eval-heldout.json", "eval-train-weights.json", "eval-heldout-anchors.json"}
    assert main(["eval", str(run)]) == 2
    assert "eval-heldout.json" in capsys.readouterr().err
