"""A pack's runs are what they are alone, on every mesh, and its refusals."""

import json
import re
from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from step_fixtures import ONE, D, F, K, V, make_config, make_rows

from vasae_jax.anchor.whitening import whitened_anchors, within_cov_of
from vasae_jax.config import MeshConfig
from vasae_jax.distributed.mesh import make_mesh
from vasae_jax.sae import screen
from vasae_jax.sites import Site
from vasae_jax.training.checks import alike, check_pack
from vasae_jax.training.hparams import SETTINGS
from vasae_jax.training.loss import Batch, StepInputs
from vasae_jax.training.pack import Layout, PackStep, rounds_of, widest
from vasae_jax.training.state import InitInputs, state_init, state_maker
from vasae_jax.training.step import make_step, make_steps
from vasae_jax.utils.errors import UserError

RUNS, STEPS = 8, 6


def mesh_of(member, data, model):
    return MeshConfig(data=data, model=model, member=member)


def pack_of(mesh=ONE, runs=RUNS, **settings):
    """Configs that differ in all that they may: lambda, learning rate, seed, directory."""
    base = make_config(mesh, **{"search_fraction": 0.25, "feature_weight": "sqrt_rate", **settings})
    return [
        replace(
            base,
            data=replace(base.data, seed=0),
            anchor=replace(base.anchor, weight=0.1 * (run + 1)),
            optim=replace(base.optim, lr=1e-3 * (1 + run % 3)),
            run=replace(base.run, seed=run // 2, out=f"run{run}"),
        )
        for run in range(runs)
    ]


def begin(config, anchors):
    mesh, mean = make_mesh(config.mesh), jnp.full((D,), 0.1, jnp.float32)
    rows = jnp.asarray(anchors)
    rate = jnp.float32(config.sae.k / config.sae.d_sae)
    tokens = jnp.arange(V, dtype=jnp.int32)
    start = InitInputs(jax.random.key(config.run.seed), mean, rows, rows, tokens, rate)
    by_scatter = None
    if config.anchor.pulls == "encoder":
        within = np.random.default_rng(3).normal(size=(D, D))
        by_scatter = jax.tree.map(
            jnp.asarray, whitened_anchors(anchors, within_cov_of(within @ within.T))
        )
    return mesh, start, StepInputs(rows, mean, jnp.float32(D), by_scatter)


def pack_state(configs, anchors):
    config = configs[0]
    mesh, start, context = begin(config, anchors)
    features = config.sae.d_sae
    rounds = rounds_of(configs, mesh.shape["member"])
    layout = Layout(jax.eval_shape(state_init(config, features), start), rounds, mesh)
    make = state_maker(config, features, mesh, start)

    def state_of(run):
        own = configs[run]
        rate = jnp.float32(own.sae.k / features)
        return make(start._replace(key=jax.random.key(own.run.seed), firing_rate=rate))

    return mesh, layout, layout.gather(state_of), context


def batches():
    x, keep, anchors = make_rows()
    return [Batch(jnp.asarray(x[t]), jnp.asarray(keep[t])) for t in range(STEPS)], anchors


def train_pack(configs, execution="sparse"):
    """Each run's final state on the host, and metrics [runs, steps, ...]."""
    rows, anchors = batches()
    mesh, layout, pack, context = pack_state(configs, anchors)
    step = PackStep(configs, mesh, layout, execution)
    seen = []
    for number, batch in enumerate(rows, 1):
        pack, metrics = step(number, pack, {Site(0): batch}, {Site(0): context})
        seen.append([[float(value) for value in own] for own in layout.read(metrics)])
    states = [jax.device_get(layout.take(pack, run)) for run in range(len(configs))]
    return states, np.array(seen).swapaxes(0, 1)


def train_alone(config, execution="sparse"):
    rows, anchors = batches()
    mesh, start, context = begin(config, anchors)
    state = state_maker(config, config.sae.d_sae, mesh, start)(start)
    steps = make_steps(config, mesh, state, execution)
    seen = []
    for number, batch in enumerate(rows, 1):
        state, metrics = steps(number)(state, batch, context)
        seen.append([float(value) for value in metrics])
    return jax.device_get(state), np.array(seen)


@pytest.fixture(scope="module")
def one_device():
    return train_pack(pack_of())


def test_a_run_of_a_pack_is_bit_equal_to_the_run_alone(one_device):
    run, (states, metrics) = 5, one_device
    state, expected = train_alone(pack_of()[run])
    np.testing.assert_array_equal(metrics[run], expected)
    for own, alone in zip(jax.tree.leaves(states[run]), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(own, alone)


VARIED = {
    "anchor.weight": (0.1, 0.7, 3.0),
    "optim.lr": (1e-3, 4e-3, 2e-2),
    "optim.encoder_lr_ratio": (0.25, 1.0, 0.1),
    "optim.warmup": (0.0, 0.3, 0.9),
    "optim.decay": (0.0, 0.3, 1.0),
    "anchor.target_cosine": (0.9, 0.45, 1.0),
    "sae.pre_bias": (1.0, 0.3, 0.1),
    "anchor.feature_weight": ("sqrt_rate", "uniform", "sqrt_rate"),
    "sae.k": (K, 2, 7),
    "run.seed": (0, 1, 2),
}
"""Three values of each setting that a pack leaves free, the base's first."""


def varied(names, base):
    """Three configs that differ in the settings of these names; the first is the base."""
    configs = [base, base, base]
    for name in names:
        section, field = name.split(".")
        configs = [
            changed(config, section, **{field: value})
            for config, value in zip(configs, VARIED[name], strict=True)
        ]
    return [changed(c, "run", out=f"run{number}") for number, c in enumerate(configs)]


def ramped_base(pulls="encoder"):
    """A run that is pulled as its layer's rows scatter, unless the decoder is pulled."""
    base = pack_of(runs=1, search_fraction=0.5, target_cosine=0.9, relative=True, pulls=pulls)[0]
    return changed(base, "anchor", start=0.2, warmup=0.3)


@cache
def alone(config, execution):
    return train_alone(config, execution)


def assert_is_as_alone(configs, execution, number):
    """And that the three differ."""
    states, metrics = train_pack(configs, execution)
    state, expected = alone(changed(configs[number], "run", out=""), execution)
    np.testing.assert_array_equal(metrics[number], expected)
    leaves, others = jax.tree.leaves(states[number]), jax.tree.leaves(state)
    for own, other in zip(leaves, others, strict=True):
        np.testing.assert_array_equal(own, other)
    assert len({metrics[run].tobytes() for run in range(3)}) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "execution"),
    [*((name, "sparse") for name in VARIED), ("sae.k", "dense"), ("sae.pre_bias", "dense")],
)
def test_a_run_of_runs_that_differ_in_one_setting_is_bit_equal_to_it_alone(name, execution):
    pulls = "encoder" if execution == "sparse" else "decoder"
    assert_is_as_alone(varied([name], ramped_base(pulls)), execution, 0)


@pytest.mark.parametrize("execution", ["sparse", pytest.param("dense", marks=pytest.mark.slow)])
def test_a_run_whose_every_setting_differs_is_bit_equal_to_it_alone(execution):
    assert_is_as_alone(varied(list(VARIED), ramped_base()), execution, 1)


@pytest.mark.slow
def test_k_found_through_bfloat16_is_bit_equal_to_it_alone():
    base = changed(ramped_base(), "sae", screen="on")
    assert_is_as_alone(varied(["sae.k", "optim.lr"], base), "sparse", 1)


def test_runs_whose_k_is_found_in_another_way_do_not_train_together(monkeypatch):
    monkeypatch.setattr(screen, "may_pay", lambda features, k: k < 4)
    many, few, _ = varied(["sae.k"], ramped_base())
    with pytest.raises(UserError, match=r"differ in whether k .* bfloat16 \(True and False\)"):
        check_pack([few, many], F, "cpu")
    assert alike(few, F, "tpu") == alike(many, F, "tpu")  # dense there
    assert widest([few, many]).sae.k == many.sae.k


def test_the_runs_of_a_pack_differ(one_device):
    _, metrics = one_device
    assert len({tuple(losses) for losses in metrics[:, -1]}) == RUNS


def assert_close(found, expected):
    """Sums over devices are taken in another order: float32 rounding over the steps."""
    states, metrics = found
    others, expected_metrics = expected
    # The uncertified share differs by right: each part spends its own search budget.
    np.testing.assert_allclose(metrics[..., :5], expected_metrics[..., :5], rtol=2e-5, atol=2e-6)
    for state, other in zip(states, others, strict=True):
        for name, value in other.params.items():
            np.testing.assert_allclose(state.params[name], value, rtol=1e-4, atol=5e-6)
        np.testing.assert_array_equal(state.counters.idle, other.counters.idle)
        if other.anchor is not None:
            np.testing.assert_array_equal(state.anchor.anchor_near, other.anchor.anchor_near)


@pytest.mark.parametrize(
    ("mesh", "execution"),
    [
        pytest.param((2, 1, 4), "sparse", marks=pytest.mark.slow),
        ((4, 2, 1), "sparse"),
        pytest.param((8, 1, 1), "sparse", marks=pytest.mark.slow),
        ((2, 2, 2), "dense"),
    ],
)
def test_a_pack_on_a_mesh_equals_one_device(one_device, mesh, execution):
    assert_close(train_pack(pack_of(mesh_of(*mesh)), execution), one_device)


def test_a_plain_pack_on_a_mesh_equals_a_run_alone():
    configs = pack_of(mesh_of(2, 2, 2), runs=4, method="plain")
    states, metrics = train_pack(configs)
    state, expected = train_alone(replace(configs[3], mesh=ONE))
    assert_close((states[3:], metrics[3:]), ([state], expected[None]))


@pytest.mark.parametrize("execution", ["sparse", "dense"])
def test_nothing_is_sent_between_members(execution):
    configs = pack_of(mesh_of(2, 2, 2))
    rows, anchors = batches()
    mesh, layout, pack, context = pack_state(configs, anchors)
    hparams = {name: jnp.ones((2,), jnp.float32) for name in SETTINGS} | {"k": jnp.full(2, K)}
    program = make_step(configs[0], mesh, layout.single, execution)
    text = program.lower(pack[0], rows[0], context._replace(hparams=hparams)).as_text()
    sent = re.findall(r"stablehlo\.(all_\w+|reduce_scatter|collective_\w+)\"", text)
    found = re.findall(r"replica_groups = dense<(.*?)> : tensor<(\d+)x(\d+)xi64>", text)
    # JAX 0.11 names the axes instead.
    named = re.findall(r"replica_groups = #stablehlo\.replica_group_mesh_axes<.*?\[(.*?)\]>", text)
    assert len(found) + len(named) == len(sent) > 5
    assert all('"model"' in axes or '"data"' in axes for axes in named)
    assert not any('"member"' in axes for axes in named)
    for groups, count, size in found:
        devices = np.array(json.loads(groups)).reshape(int(count), int(size))
        # Member is the slowest axis: its first place has devices 0 to 3.
        assert (devices // 4 == devices[:, :1] // 4).all(), groups


@pytest.mark.parametrize("mesh", [(1, 1, 1), (2, 1, 4), (8, 1, 1)])
def test_every_array_of_a_pack_lies_where_the_rules_say(mesh):
    _, anchors = batches()
    configs = pack_of(mesh_of(*mesh))
    _, _, pack, _ = pack_state(configs, anchors)
    assert len(pack) == RUNS // mesh[0]
    whole = {".step": 1, ".moments.count": 1}
    whole |= {f"{room}['b_dec']": D for room in (".params", ".moments.mu", ".moments.nu")}
    for state in pack:
        found = {
            jax.tree_util.keystr(path): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }
        assert len(found) == 23 and set(whole) < set(found)
        for name, leaf in found.items():
            axes = () if name in whole else ("model",)
            if mesh[0] == 1:  # the state of the run itself
                assert leaf.sharding.spec == P(*axes), name
                continue
            assert leaf.sharding.spec == P(("member", *axes)), name
            # What a device holds has the shape of a run alone on so many devices.
            own = whole.get(name, F // mesh[2])
            assert leaf.addressable_shards[0].data.shape[0] == own, name


def changed(config, section, **fields):
    return replace(config, **{section: replace(getattr(config, section), **fields)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda c: changed(c, "sae", d_sae=32),
            r"runs 0 and 2 .* differ in sae.d_sae \(64 and 32\)",
        ),
        (lambda c: changed(c, "sae", pre_bias=0.0), "differ in whether b_dec is taken from the"),
        (lambda c: changed(c, "anchor", center=False), "differ in anchor.center"),
        (lambda c: changed(c, "data", seed=None), "differ in data.seed"),
        (lambda c: changed(c, "run", out="./run0"), r"runs 0 and 2 .* both have --run.out="),
    ],
)
def test_runs_that_cannot_train_together_are_refused(change, sentence):
    configs = pack_of(runs=3)
    with pytest.raises(UserError, match=sentence):
        check_pack([*configs[:2], change(configs[2])], F, "cpu")


def test_seeds_need_one_order_of_rows():
    configs = [changed(config, "data", seed=None) for config in pack_of(runs=3)]
    with pytest.raises(UserError, match=r"run.seed 0 and 1, .* expected one --data.seed"):
        check_pack(configs, F, "cpu")
    check_pack(configs[:2], F, "cpu")  # one seed: nothing to agree on


def test_no_runs_are_no_pack():
    with pytest.raises(UserError, match="a pack has no runs"):
        check_pack([], F, "cpu")


def test_a_round_is_of_one_layer_and_filled_up_with_its_last_run():
    base = pack_of(runs=5)
    configs = [
        changed(c, "data", layer=layer) for c, layer in zip(base, (3, 9, 3, 3, 9), strict=True)
    ]
    rounds = rounds_of(configs, 2)
    assert rounds == ((0, 2), (3,), (1, 4))
    mesh = make_mesh(mesh_of(2, 1, 1))
    _, anchors = batches()
    _, start, _ = begin(base[0], anchors)
    layout = Layout(jax.eval_shape(state_init(base[0], F), start), rounds, mesh)
    assert [layout.places(number) for number in range(3)] == [[0, 2], [3, 3], [1, 4]]
