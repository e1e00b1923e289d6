"""What a machine decides is decided once for a run."""

from dataclasses import replace

import pytest
from cache_fixtures import make_cache

from vasae_jax.config import Config, MeshConfig, RunConfig, SAEConfig
from vasae_jax.distributed.autotune import Timing
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.sae import screen
from vasae_jax.training import autotune
from vasae_jax.training.run_dir import open_run, read_run

LARGE = (screen.LEAST_FEATURES * 32, 16)


def config(out="", **sae):
    mesh = MeshConfig(data=1, model=1)
    return Config(sae=SAEConfig(k=32, **sae), mesh=mesh, run=RunConfig(out=str(out)))


@pytest.fixture
def machine(monkeypatch):
    """A machine on which one way is faster; the questions that it was asked."""
    asked = []

    def make(name):
        def fastest(question, ways):
            asked.append(question)
            return Timing(name, {name: 0.1})

        monkeypatch.setattr(autotune, "fastest", fastest)
        return asked

    return make


def chosen(wanted, shape=LARGE):
    return autotune.autotuned_runs([wanted], make_mesh(wanted.mesh), shape)[0].sae.screen


@pytest.mark.parametrize(("name", "choice"), [("float32", "off"), (screen.SCREENED, "on")])
def test_the_faster_way_is_taken(machine, name, choice):
    asked = machine(name)
    assert chosen(config()) == choice
    assert len(asked) == 1 and "top 32 of 16384 features" in asked[0]


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (LARGE[0] - 1, 16)),
        ({"compute_dtype": "bfloat16"}, LARGE),
        ({"execution": "dense"}, LARGE),
        ({"pre_bias": 0.0}, LARGE),
    ],
)
def test_where_it_cannot_pay_nothing_is_measured(machine, settings, shape):
    asked = machine(screen.SCREENED)
    assert chosen(config(**settings), shape) == "off"
    assert not asked


def test_the_users_own_choice_stands(machine):
    asked = machine(screen.SCREENED)
    assert chosen(config(screen="off")) == "off" and not asked


def test_a_run_goes_on_as_it_began_on_another_machine(machine, tmp_path):
    wanted = config(tmp_path / "run")
    machine(screen.SCREENED)
    begun = autotune.autotuned_runs([wanted], make_mesh(wanted.mesh), LARGE)[0]
    open_run(begun, make_cache(tmp_path))
    assert read_run(tmp_path / "run").config.sae.screen == "on"
    machine("float32")
    assert chosen(wanted) == "on"
    again = replace(wanted, run=replace(wanted.run, overwrite=True))
    assert chosen(again) == "off"
