"""A pull that sets in late: lambda is 0, rises linearly, is full; without it nothing changes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_fixtures import STEPS, F, make_config, make_rows, run_steps, start

from vasae_jax.training.hparams import anchor_weight, hparams_of
from vasae_jax.training.loss import Batch
from vasae_jax.training.step import make_step


def ramped(start, warmup, **settings):
    config = make_config(**settings)
    return replace(config, anchor=replace(config.anchor, start=start, warmup=warmup))


def weights(config):
    """Lambda at every step, as a jitted program has it."""

    @jax.jit
    def weight(step):
        return jnp.float32(
            anchor_weight(step, hparams_of(config, F), config.anchor, config.run.steps)
        )

    return [float(weight(jnp.int32(step))) for step in range(config.run.steps)]


@pytest.mark.parametrize(
    ("start", "warmup"), [(0.25, 0.5), (0.5, 0.0), (0.0, 0.5), (1.0, 0.2), (0.0, 1.0), (0.3, 0.0)]
)
def test_lambda_by_step_equals_its_definition(start, warmup):
    config = ramped(start, warmup)
    expected = []
    for step in range(STEPS):
        since = step - start * STEPS
        share = min(max(since / max(warmup * STEPS, 1), 0), 1)
        expected.append(config.anchor.weight * share)
    found = weights(config)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert all(weight == 0 for weight in found[: int(start * STEPS)])
    assert all(
        weight == np.float32(config.anchor.weight)
        for weight in found[int(np.ceil((start + warmup) * STEPS)) + 1 :]
    )


def test_without_a_ramp_the_config_and_its_program_are_as_before():
    config = make_config()
    _, _, anchors = make_rows()
    hparams = hparams_of(config, F)
    weight = anchor_weight(jnp.int32(3), hparams, config.anchor, config.run.steps)
    assert weight is hparams.anchor_weight
    programs = []
    for one in (config, ramped(0.0, 0.0), ramped(0.5, 0.0)):
        mesh, state, context = start(one, anchors)
        batch = Batch(jnp.zeros((48, 16)), jnp.ones(48, bool))
        step = make_step(one, mesh, state, "sparse")
        programs.append(step.lower(state, batch, context).as_text())
    assert programs[0] == programs[1] != programs[2]


def test_until_it_sets_in_a_run_is_one_without_a_pull():
    """Six of twelve steps: the same weights as with lambda 0, and others after."""
    late = ramped(0.5, 0.0)
    none = replace(late, anchor=replace(late.anchor, weight=0.0, start=0.0))
    for steps, same in ((6, True), (7, True), (12, False)):
        found, expected = (run_steps(config, steps=steps)[0].params for config in (late, none))
        equal = [np.allclose(found[name], expected[name], atol=1e-6) for name in found]
        assert all(equal) == same, steps
    pulled = run_steps(late)[1][:, 3]
    assert not pulled[:5].any()
    assert pulled[-1] > pulled[6]  # the mean nearest cosine


@pytest.mark.parametrize("share", [1.0, 0.1])
def test_nearest_anchors_are_found_again_when_it_sets_in(share):
    """They are left alone before; with a budget for all they are exact from then on."""
    config = ramped(0.5, 0.25, search_fraction=share)
    state, metrics = run_steps(config)
    assert not metrics[:5, 5].any()  # nothing is said of those that nothing reads
    _, _, anchors = make_rows()
    rows = np.asarray(state.params["W_dec"], np.float64)
    cosines = rows @ anchors.astype(np.float64).T
    cached = np.einsum("fd,fd->f", rows, state.anchor.anchor_rows)
    lost = cosines.max(axis=1) - cached
    if share == 1:
        assert metrics[-1, 5] == 0 and lost.max() < 1e-5
    assert (lost < 1e-5).mean() >= 1 - metrics[-1, 5] - 1e-6
