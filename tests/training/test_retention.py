"""Which checkpoints a run keeps."""

import pytest
from cache_fixtures import make_cache
from small_states import small_state
from test_train import config_for

from vasae_jax.training.checkpoint import Checkpoints
from vasae_jax.training.loop import train


@pytest.mark.parametrize(
    ("keep", "keep_every", "kept"),
    [(1, None, [5]), (2, 2, [2, 4, 5])],
)
def test_the_newest_and_every_so_many_are_kept(tmp_path, keep, keep_every, kept):
    with Checkpoints(tmp_path, keep=keep, keep_every=keep_every) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, small_state(step))
        assert checkpoints.steps() == kept
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == kept
        for step in kept:
            assert checkpoints.restore(step, small_state(0)).step == step


@pytest.mark.slow
def test_a_run_keeps_what_its_settings_say_and_more_when_resumed_so(tmp_path):
    cache = make_cache(tmp_path, rows=600, d=16, vocab=40, layers=(1, 3)).url
    out = tmp_path / "run"
    train(config_for(cache, out, steps=8, checkpoint_every=2, keep=1, keep_every=4))
    with Checkpoints(out) as checkpoints:
        assert checkpoints.steps() == [4, 8]
    train(config_for(cache, out, steps=8, checkpoint_every=2, keep=5))  # may change: not refused
