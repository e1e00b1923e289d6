"""Optuna drives a sweep: each batch of trials is a pack. Needs Optuna: pip install optuna.

The loop is that of docs/sweeps.md.
"""

from dataclasses import replace

import pytest
from cache_fixtures import make_cache
from sweep_fixtures import make_base

from vasae_jax import train_points
from vasae_jax.sweep.points import read_members

optuna = pytest.importorskip("optuna")


def tell(study, trial, metrics):
    if metrics["status"] == "diverged":
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, metrics["unmasked.fvu"])


def test_a_diverged_trial_is_pruned_and_the_study_goes_on(tmp_path):
    cache = make_cache(tmp_path, rows=1500, heldout=300, layers=(1,)).url
    base = make_base(cache, steps=8, log_every=2)
    base = replace(base, optim=replace(base.optim, warmup=0.0))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    trials = [study.ask() for _ in range(2)]
    points = [{"optim.lr": rate} for rate in (4e-3, 1e38)]
    for trial, found in zip(trials, train_points(base, points, str(tmp_path / "out")), strict=True):
        tell(study, trial, found)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED"]
    assert study.best_trial.number == 0 and study.ask() is not None


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
            tell(study, trial, found)
    values = [trial.value for trial in study.trials]
    assert len(values) == 6 and study.best_value == min(values) < max(values)
    assert len(read_members(out)) == 6
