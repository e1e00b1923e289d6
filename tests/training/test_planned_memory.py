"""The memory that is foretold is that of the arrays that a run then has."""

from dataclasses import replace

import jax
import pytest
from cache_fixtures import make_cache

from vasae_jax.cli.main import main
from vasae_jax.config import AnchorConfig, Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.training.inputs import init_run
from vasae_jax.training.shapes import (
    Shapes,
    batch_shapes,
    init_shapes,
    input_shapes,
    memory,
    planned,
)
from vasae_jax.training.state import state_init
from vasae_jax.training.step import make_step

D, F, ROWS = 16, 64, 32


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("memory"))


def config_for(cache, **sae):
    return Config(
        data=DataConfig(cache=str(cache.url), layer=1, batch=ROWS),
        sae=SAEConfig(**{"d_sae": F, "k": 3} | sae),
        anchor=AnchorConfig(kind="at", pulls="decoder"),
        mesh=MeshConfig(data=2, model=2),
        run=RunConfig(out="unused", steps=10),
    )


def on_first_device(tree):
    device = jax.devices()[0]
    return sum(
        part.data.nbytes
        for leaf in jax.tree.leaves(tree)
        for part in leaf.addressable_shards
        if part.device == device
    )


@pytest.mark.parametrize("method", ["soft", "plain", "tied"])
def test_state_and_context_are_as_large_as_foretold(cache, method):
    config = config_for(cache, method=method, d_sae=0)
    mesh, vocab = make_mesh(config.mesh), cache.manifest.vocab_size
    found = memory(config, Shapes(D, vocab, vocab, ROWS), mesh.shape, "sparse")
    context, state = init_run(config, cache, mesh, vocab)
    assert found.state == on_first_device(state)
    assert found.inputs == on_first_device(context)


@pytest.mark.parametrize(("execution", "screen"), [("sparse", "on"), ("sparse", "off")])
def test_a_step_takes_about_as_much_as_foretold(execution, screen):
    """Within a quarter of what the compiler plans for one device."""
    shapes = Shapes(d=64, vocab=512, features=8192, rows=512)
    config = Config(
        sae=SAEConfig(d_sae=8192, k=8, screen=screen), mesh=MeshConfig(data=1), run=RunConfig()
    )
    mesh = make_mesh(config.mesh)
    state = jax.eval_shape(state_init(config, 8192), init_shapes(config, shapes))
    step = make_step(config, mesh, state, execution)
    lowered = step.lower(state, batch_shapes(shapes), input_shapes(config, shapes))
    plan = lowered.compile().memory_analysis()
    planned = plan.argument_size_in_bytes + plan.temp_size_in_bytes
    assert memory(config, shapes, mesh.shape, execution).total == pytest.approx(planned, rel=0.25)


def test_a_pack_holds_the_state_of_its_rounds_and_a_context_for_each_layer(tmp_path):
    made = make_cache(tmp_path, layers=(1, 3))
    config = replace(config_for(made), mesh=MeshConfig(data=1, member=2))
    other = replace(config, data=replace(config.data, layer=3))
    one = planned([replace(config, mesh=MeshConfig(data=1))])
    for pack, rounds, layers in (([config] * 4, 2, 1), ([config] * 3 + [other], 3, 2)):
        pack = [replace(c, run=replace(c.run, out=f"run-{n}")) for n, c in enumerate(pack)]
        found = planned(pack)
        assert (found.state, found.inputs) == (rounds * one.state, layers * one.inputs)
        assert found.activations == one.activations


def test_a_dry_run_writes_nothing(cache, tmp_path, capsys):
    out = tmp_path / "run"
    settings = [f"--data.cache={cache.url}", "--data.layer=1", "--data.batch=32", "--sae.k=3"]
    assert main(["train", "--dry-run", *settings, f"--run.out={out}"]) == 0
    assert capsys.readouterr().out.startswith("about ")
    assert not out.exists()
    assert main(["train", "--dry-run", *settings[:1], "--data.layer=7", f"--run.out={out}"]) == 2
