"""Whether an evaluation screens in bfloat16 is asked of the machine that evaluates."""

import numpy as np
import pytest
from cache_fixtures import make_cache

from vasae_jax.config import Config, SAEConfig
from vasae_jax.distributed.autotune import Timing
from vasae_jax.evaluation.run import screened
from vasae_jax.sae import screen
from vasae_jax.training import autotune
from vasae_jax.training.run import Run

K, D = 2, 8
LARGE = screen.LEAST_FEATURES * K


def run(tmp_path, features, activation):
    """A run that was trained without the screen."""
    params = {"W_enc": np.zeros((features, D), np.float32)}
    config = Config(sae=SAEConfig(activation=activation, k=K, screen="off"))
    return Run(config, 0, params, make_cache(tmp_path))


@pytest.mark.parametrize(
    ("name", "features", "activation", "expected"),
    [
        (screen.SCREENED, LARGE, "topk", True),
        ("float32", LARGE, "topk", False),
        (screen.SCREENED, LARGE - 1, "topk", False),
        (screen.SCREENED, LARGE, "jumprelu", False),
    ],
)
def test_what_the_training_machine_chose_does_not_count(
    monkeypatch, tmp_path, name, features, activation, expected
):
    monkeypatch.setattr(autotune, "fastest", lambda question, ways: Timing(name, {name: 0.1}))
    assert screened(run(tmp_path, features, activation)) is expected
