"""Optuna drives a sweep: each batch of trials is a pack. Needs Optuna: pip install optuna."""

import pytest
from cache_fixtures import make_cache
from sweep_fixtures import make_base

from vasae_jax import train_points
from vasae_jax.sweep.points import read_members

optuna = pytest.importorskip("optuna")


def test_trials_are_trained_in_batches(tmp_path):
    cache = make_cache(tmp_path, rows=1500, heldout=300, layers=(1,)).url
    base, out = make_base(cache), tmp_path / "out"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=4))
    for _ in range(2):
        trials = [study.ask() for _ in range(3)]
        points = [
            {
                "optim.lr": trial.suggest_float("lr", 1e-4, 1e-2, log=True),
                "sae.k": trial.suggest_int("k", 2, 8),
            }
            for trial in trials
        ]
        for trial, found in zip(trials, train_points(base, points, str(out)), strict=True):
            study.tell(trial, found["unmasked.fvu"])
    values = [trial.value for trial in study.trials]
    assert len(values) == 6 and study.best_value == min(values) < max(values)
    assert len(read_members(out)) == 6
