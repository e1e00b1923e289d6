"""A run that is read while it trains: retention may delete the very step that is being read."""

import numpy as np
import pytest
from small_states import small_state

from vasae_jax.training import checkpoint
from vasae_jax.training.checkpoint import Checkpoints, load_params
from vasae_jax.training.digests import kept_steps

pytestmark = [pytest.mark.fault, pytest.mark.hostile]


@pytest.mark.parametrize("when", ["before its digests are read", "before its arrays are read"])
def test_a_step_that_is_deleted_as_it_is_read_gives_way_to_the_next(tmp_path, monkeypatch, when):
    damage_of, left = checkpoint.damage_of, [2, 3]

    def save_meanwhile():
        if left:
            step = left.pop(0)
            trainer.save(step, small_state(step))
            trainer.steps()  # waits: the step before is gone

    def damage_in_between(step, read):
        if when == "before its digests are read":
            save_meanwhile()
            return damage_of(step, read)
        damage = damage_of(step, read)
        save_meanwhile()
        return damage

    with Checkpoints(tmp_path, keep=1) as trainer:
        trainer.save(1, small_state(1))
        trainer.steps()
        monkeypatch.setattr(checkpoint, "damage_of", damage_in_between)
        step, params = load_params(tmp_path)
    assert step == 3
    np.testing.assert_array_equal(params["b_enc"], np.full(8, 3.0))


@pytest.mark.parametrize("name", ["²", "٣", "007", "-1", "1_0", "9 "])
def test_names_that_are_no_steps_are_none(tmp_path, name):
    with Checkpoints(tmp_path) as trainer:
        trainer.save(1, small_state(1))
    (tmp_path / "checkpoints" / "1").rename(tmp_path / "kept")
    (tmp_path / "kept").rename(tmp_path / "checkpoints" / name)
    assert kept_steps(tmp_path) == []
    with Checkpoints(tmp_path) as trainer:
        trainer.save(2, small_state(2))
    assert kept_steps(tmp_path) == [2]
    assert load_params(tmp_path)[0] == 2
