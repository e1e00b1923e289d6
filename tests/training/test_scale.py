"""Rows of unusual size: too large or too small for float32, or small for the learning rate."""

from dataclasses import replace

import numpy as np
import pytest
from cache_fixtures import append, make_plan, make_rows, make_vocabulary
from test_train import config_for

from vasae_jax.cache import CacheWriter
from vasae_jax.training.checks import MOST_LR, rate_warning
from vasae_jax.training.loop import train
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault


def scaled_cache(place, scale):
    """A cache of float32 rows, all multiplied by one number."""
    plan = make_plan(dtype="float32", layers=(1,))
    with CacheWriter(str(place), plan, make_vocabulary(plan)) as writer:
        for split, rows, first_doc in (("train", 600, 0), ("heldout", 100, 1000)):
            made = make_rows(plan, rows, first_doc=first_doc)
            acts = {layer: x * np.float32(scale) for layer, x in made.acts.items()}
            append(writer, split, replace(made, acts=acts))
        writer.finish()
    return str(place)


def few_steps(cache, out):
    return config_for(cache, out, steps=2)


@pytest.mark.parametrize("scale", [1e13, 1e18])
def test_rows_too_large_for_sums_of_squares_are_refused(tmp_path, scale):
    config = few_steps(scaled_cache(tmp_path / "cache", scale), tmp_path / "run")
    with pytest.raises(UserError, match=r"layers.1.resid_post has \d+ rows .* 2\^40"):
        train(config)


@pytest.mark.parametrize("scale", [1e-14, 1e-20])
def test_rows_too_small_for_squares_are_refused(tmp_path, scale):
    config = few_steps(scaled_cache(tmp_path / "cache", scale), tmp_path / "run")
    with pytest.raises(UserError, match=r"layers.1.resid_post .* deviate from their mean by .*e-"):
        train(config)


@pytest.mark.parametrize(("scale", "warned"), [(1.0, False), (0.03, False), (1e-3, True)])
def test_a_learning_rate_that_is_large_for_the_rows_is_pointed_out(tmp_path, scale, warned, capsys):
    config = few_steps(scaled_cache(tmp_path / "cache", scale), tmp_path / "run")
    train(replace(config, optim=replace(config.optim, lr=4e-3)))
    assert ("warning: --optim.lr=0.004 is large" in capsys.readouterr().err) is warned


def test_the_warning_is_of_the_largest_rate_of_a_pack():
    config = config_for("cache", "run")
    small, large = (replace(config, optim=replace(config.optim, lr=lr)) for lr in (1e-4, 1e-2))
    assert rate_warning([small, large], 32, 1.01 * 1e-2 / MOST_LR) is None
    assert "--optim.lr=0.01 is large" in rate_warning([small, large], 32, 0.99 * 1e-2 / MOST_LR)
