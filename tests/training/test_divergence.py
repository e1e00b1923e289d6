"""A run that explodes stops, and what is kept is from before."""

import json
import math

import jax
import pytest
from cache_fixtures import make_cache
from small_states import small_state
from test_train import changed, config_for

from vasae_jax.training.checkpoint import Checkpoints
from vasae_jax.training.loop import train
from vasae_jax.training.status import LossCheck
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault


def exploding(cache, out, **run):
    """A run whose rate is as usual while it rises, then far too large."""
    config = config_for(cache, out, steps=60, log_every=5, checkpoint_every=5, **run)
    config = changed(config, "optim", lr=30.0, warmup=1.0, decay=0.0)
    return changed(config, "sae", normalize_decoder=False, method="plain")


def test_an_exploding_run_stops_with_its_last_good_step_and_again_when_rerun(tmp_path):
    cache = make_cache(tmp_path, rows=600, d=16, vocab=40, layers=(1, 3)).url
    config, said = exploding(cache, tmp_path / "run", keep_every=1), []
    for _ in range(2):
        with pytest.raises(UserError, match=r"exploded") as stopped:
            train(config)
        said.append(str(stopped.value))
    assert said[0] == said[1]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    fvus = {line["step"]: line["fvu"] for line in map(json.loads, lines)}
    with Checkpoints(tmp_path / "run") as checkpoints:
        steps = checkpoints.steps()
    assert steps and all(math.isfinite(fvu) for fvu in fvus.values())
    for step in steps:  # none exploded, by what was logged up to it
        assert fvus[step] <= 10 * max(1, min(fvus[each] for each in fvus if each <= step))


@pytest.mark.parametrize(("fvu", "sentence"), [(10.1, "10.1 at step 9"), (1e30, "1e.30 at step 9")])
def test_a_loss_that_explodes_is_told_with_the_best_before(fvu, sentence):
    loss = LossCheck(math.inf)
    for good in (0.9, 0.25, 9.9):
        loss.check(1, good, good)
    with pytest.raises(UserError, match=rf"^the loss has exploded: .*{sentence} and was 0.25"):
        loss.check(9, fvu, fvu)


@pytest.mark.parametrize(("loss", "fvu"), [(math.nan, 0.5), (0.5, math.nan), (0.5, math.inf)])
def test_numbers_that_are_not_finite_end_a_run_before_they_are_written(loss, fvu):
    with pytest.raises(UserError, match=r"the (loss|fvu) is (nan|inf) at step 3"):
        LossCheck(math.inf).check(3, loss, fvu)


def test_a_bad_start_is_no_explosion():
    loss = LossCheck(math.inf)
    for falling in (900.0, 300.0, 899.0, 20.0, 150.0):
        loss.check(1, falling, falling)
    with pytest.raises(UserError, match="the fvu is 201 at step 2 and was 20 at best"):
        loss.check(2, 201.0, 201.0)


def test_weights_that_explode_between_checkpoints_are_not_saved(tmp_path):
    grown = small_state(2)._replace(params=jax.tree.map(lambda p: 500 * p, small_state(1).params))
    sentence = r"^the weights after step 2 have exploded .* 500 times as large as after step 1;"
    with pytest.raises(UserError, match=sentence), Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, small_state(1))
        checkpoints.save(2, grown)
    with pytest.raises(UserError, match=sentence), Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.restore(1, small_state(0))
        checkpoints.save(2, grown)
        checkpoints.save(3, small_state(1))  # raises what became of the one before
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
