"""Metrics of one's own, by an observer and as a field of Metrics: docs/dev/extend.md's example."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from cache_fixtures import make_cache
from median_error import MedianError

import vasae_jax as vj
from vasae_jax.cli.main import main
from vasae_jax.config import AnchorConfig, Config, DataConfig, MeshConfig, RunConfig, SAEConfig
from vasae_jax.evaluation import evaluate
from vasae_jax.evaluation.metrics import Metrics, compute_metrics, flatten_numbers
from vasae_jax.evaluation.run import evaluate_run, run_names


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run's directory."""
    place = tmp_path_factory.mktemp("metric")
    cache = make_cache(place / "cache", rows=400, heldout=100).url
    config = Config(
        data=DataConfig(cache=cache, layer=1, batch=32, readers=4, shuffle_chunks=2, max_norm=0),
        sae=SAEConfig(method="plain", d_sae=32, k=4),
        anchor=AnchorConfig(kind="embedding"),
        mesh=MeshConfig(1, 1),
        run=RunConfig(out=str(place / "run"), steps=4, log_every=2),
    )
    return vj.train(config)


def test_an_observer_measures_beside_the_evaluation(folder):
    run = vj.open_trained(str(folder))
    observer = MedianError(run, "heldout")
    evaluation = evaluate_run(run, run_names(run), "heldout", observer)
    errors = np.concatenate(observer._errors)
    assert len(errors) == evaluation.unmasked.rows
    keep = run.cache.column("positions", "heldout").read(0, 100) >= 1
    rows = run.cache.acts(1, "heldout").read(0, 100).astype(np.float64)[keep]
    spread = np.square(rows - rows.mean(axis=0)).sum()
    assert errors.sum() / spread == pytest.approx(evaluation.unmasked.fvu, rel=1e-4)
    assert errors.min() < observer.median() < errors.max()


@dataclass(frozen=True)
class MoreMetrics(Metrics):
    """The metrics and one more."""

    half_mass: int = 0
    """The fewest features that carry half of all activation times decoder norm."""


def with_half_mass(sums, decoder_norms, nearest):
    """What compute_metrics returns, and ``half_mass``."""
    mass = np.sort(sums.activation * decoder_norms)[::-1]
    half = int(np.searchsorted(np.cumsum(mass), mass.sum() / 2)) + 1
    return MoreMetrics(**vars(compute_metrics(sums, decoder_norms, nearest)), half_mass=half)


def test_a_field_of_metrics_is_in_the_json_of_vasae_eval(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate, "compute_metrics", with_half_mass)
    assert main(["eval", str(folder), f"--out={tmp_path / 'eval.json'}"]) == 0
    result = json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))
    assert 1 <= result["unmasked"]["half_mass"] <= 32
    # By this name it is a column of a sweep's table and a curve on a run's boards.
    assert flatten_numbers(result)["unmasked.half_mass"] == result["unmasked"]["half_mass"]
