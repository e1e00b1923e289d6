"""Programs compiled from shapes alone are given the shapes that a run has."""

from dataclasses import replace

import jax
import pytest
from cache_fixtures import make_cache

from vasae_jax.aot.programs import PROGRAMS
from vasae_jax.config import AnchorConfig, Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.training.inputs import init_run, load_inputs
from vasae_jax.training.shapes import Shapes

V, D, F, ROWS = 40, 16, 32, 64
ANCHORS = {"embedding": V, "at": V, "before": V, "both": 2 * V}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("cache"), rows=2000, d=D, vocab=V, layers=(1,))


def config_for(cache, kind="embedding", method="soft"):
    return Config(
        data=DataConfig(cache=cache.url, layer=1, batch=ROWS),
        sae=SAEConfig(d_sae=F, k=3, method=method),
        anchor=AnchorConfig(kind=kind),
        mesh=MeshConfig(data=2, model=2),
        run=RunConfig(steps=10),
    )


def kinds(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype), leaf.sharding.spec), tree)


@pytest.mark.parametrize(
    ("kind", "method"), [*((kind, "soft") for kind in ANCHORS), ("both", "plain")]
)
def test_the_step_has_the_arguments_of_a_run(cache, kind, method):
    config = config_for(cache, kind, method)
    mesh, shapes = make_mesh(config.mesh), Shapes(D, V, F, ROWS)
    program, (state, batch, inputs) = PROGRAMS["step"](config, shapes, mesh)
    run_inputs, run_state = init_run(config, cache, mesh, F)
    assert inputs.anchors.shape == (ANCHORS[kind] if method == "soft" else 1, D)
    assert kinds(inputs) == kinds(run_inputs)
    assert kinds(state) == kinds(run_state)
    assert batch.x.shape == (ROWS, D)
    program.lower(state, batch, inputs)


def test_a_pack_has_its_runs_end_to_end(cache):
    mesh = MeshConfig(member=2, data=2, model=2)
    config, shapes = replace(config_for(cache, "both"), mesh=mesh), Shapes(D, V, F, ROWS)
    program, (state, batch, inputs) = PROGRAMS["pack"](config, shapes, make_mesh(mesh))
    assert state.params["W_enc"].shape == (2 * F, D) and state.step.shape == (2,)
    assert inputs.hparams["anchor_weight"].shape == (2,) and batch.x.shape == (ROWS, D)
    assert inputs.anchors.shape == (2 * V, D)
    program.lower(state, batch, inputs)


def test_the_start_has_the_arguments_of_a_run(cache):
    config = replace(config_for(cache, "both"), mesh=MeshConfig(data=1))
    mesh = make_mesh(config.mesh)
    program, (start,) = PROGRAMS["start"](config, Shapes(D, V, F, ROWS), mesh)
    _, own = load_inputs(config, cache, mesh, F)
    assert jax.tree.map(lambda leaf: leaf.shape, start) == jax.tree.map(
        lambda leaf: leaf.shape, own
    )
    assert start.targets.shape == (2 * V, D) and start.rows.shape == (V, D)
    program.lower(start)
