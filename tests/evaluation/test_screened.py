"""Whether an evaluation screens in bfloat16 is asked of the machine that evaluates."""

import numpy as np
import pytest
from cache_fixtures import make_cache

from vasae_jax.config import Config, SAEConfig
from vasae_jax.distributed.autotune import Fastest
from vasae_jax.evaluation.run import screened
from vasae_jax.sae import screen
from vasae_jax.training import autotune
from vasae_jax.training.run import Run

K, D = 2, 8
LARGE = screen.LEAST_FEATURES * K


def run(tmp_path, features, **more):
    """A run that was trained without the screen."""
    params = {"W_enc": np.zeros((features, D), np.float32), **more}
    config = Config(sae=SAEConfig(k=K, screen="off"))
    return Run(config, 0, params, make_cache(tmp_path))


@pytest.mark.parametrize(
    ("name", "features", "more", "expected"),
    [
        (screen.SCREENED, LARGE, {}, True),
        ("float32", LARGE, {}, False),
        (screen.SCREENED, LARGE - 1, {}, False),
        (screen.SCREENED, LARGE, {"threshold": np.zeros(LARGE)}, False),
    ],
)
def test_what_the_training_machine_chose_does_not_count(
    monkeypatch, tmp_path, name, features, more, expected
):
    monkeypatch.setattr(autotune, "fastest", lambda question, ways: Fastest(name, {name: 0.1}))
    assert screened(run(tmp_path, features, **more)) is expected
