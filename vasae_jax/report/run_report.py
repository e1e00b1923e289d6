"""Everything that a report shows of one run, measured once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.cache.vocab import Vocab
from vasae_jax.config import Config
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.evaluation.examples.collect import Examples
from vasae_jax.evaluation.examples.gather import gather
from vasae_jax.evaluation.neighbours import (
    CofiringFeatures,
    LogitLensTokens,
    cofiring_features,
    firing_matches,
    logit_lens_tokens,
    near_features,
)
from vasae_jax.evaluation.publish import publish
from vasae_jax.names.by_embedding import Names
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.evidence import Evidence
from vasae_jax.names.firings import FiringObserver
from vasae_jax.names.scores import NameScores, name_scores, shuffled_scores
from vasae_jax.report.labels import LabelledRun, RunLabel
from vasae_jax.training.run_dir import metrics_of

NEIGHBOURS = 8
"""Near features, features that fire together, and tokens raised and lowered, shown of each."""
MATCHED_RUNS = 4
"""Runs in which a run's features are matched, at most."""


@dataclass(frozen=True)
class RunReport:
    """What a report shows of one run; arrays over its F features."""

    label: RunLabel
    config: Config
    dictionary: Dictionary
    vocab: Vocab
    vocab_key: str
    """Equal for runs with equal token strings."""
    evaluation: dict[str, Any]
    """As JSON."""
    scores: tuple[NameScores, ...]
    """What layer names hold, over all firing features first."""
    shuffled: np.ndarray
    """float32 [F], what the first names of other firing features hold of its activation, on average
    """
    split: str
    """The split that examples are from."""
    examples: Examples
    histogram: np.ndarray
    """int64 [F, bins], firings by activation"""
    near: Names
    cofiring: CofiringFeatures
    logit_lens: LogitLensTokens
    curves: list[dict[str, float]]
    """The lines of metrics.jsonl."""
    fvu_by_position: np.ndarray
    """[T], nan at positions without rows"""


Published = tuple[Dictionary, Evaluation, FiringObserver]
"""What :func:`vasae_jax.evaluation.publish.publish` returns."""


def make_run_report(
    labelled: LabelledRun, split: str, saved: Path | None, published: Published | None = None
) -> RunReport:
    """Measure a run, and gather its examples from ``split``.

    ``saved`` is where the pass over the split keeps its progress; ``published`` is what was
    measured of the run, if it was measured already.

    Raises:
        UserError: a damaged cache, or a split that it lacks.
    """
    run = labelled.run
    dictionary, evaluation, observer = published or publish(run)
    firings, (names, evidence, norms) = observer.firings(), layer_names(dictionary)
    gathered = gather(run, split, saved)
    return RunReport(
        label=labelled.label,
        config=run.config,
        dictionary=dictionary,
        vocab=run.cache.vocab(),
        vocab_key=run.cache.manifest.digests["tokens"][:12],
        evaluation=evaluation.to_json(),
        scores=name_scores(firings, names, evidence, norms),
        shuffled=shuffled_scores(firings, names, 1).astype(np.float32),
        split=split,
        examples=gathered.examples,
        histogram=gathered.histogram,
        near=near_features(run.params["W_dec"], NEIGHBOURS, run.mesh),
        cofiring=cofiring_features(firings, dictionary.d_sae, NEIGHBOURS),
        logit_lens=logit_lens_tokens(
            dictionary.W_dec, run.cache.final_norm(), run.cache.unembedding(), NEIGHBOURS
        ),
        curves=_curves(labelled.path),
        fvu_by_position=gathered.positions.fvu(),
    )


def layer_names(dictionary: Dictionary) -> tuple[LayerNames, Evidence, np.ndarray]:
    """A dictionary's layer names, the evidence for them, and the norms of its decoder rows."""
    names = LayerNames(
        dictionary.layer_token_ids, dictionary.layer_relation, dictionary.layer_expected
    )
    evidence = Evidence(
        name_hold=dictionary.layer_hold,
        name_lift=dictionary.layer_lift,
        name_rows=dictionary.layer_rows,
        name_text_rows=dictionary.layer_text_rows,
        name_verdict=dictionary.layer_verdict,
        hold=dictionary.hold,
        fired=dictionary.fired_rows,
        verdict=dictionary.verdict,
        verdict_together=dictionary.verdict_together,
    )
    return names, evidence, np.linalg.norm(dictionary.W_dec.astype(np.float64), axis=1)


def match_features(reports: Sequence[RunReport]) -> dict[str, dict[str, Names]]:
    """By the keys of two runs, each feature's nearest firing feature in the other; ids [F, 1].

    A run is compared with the MATCHED_RUNS nearest to it in the list, and of these with those
    whose rows are as wide: of many runs not each with each.
    """
    matched: dict[str, dict[str, Names]] = {}
    for place, report in enumerate(reports):
        nearest = sorted(range(len(reports)), key=lambda other: (abs(other - place), other))
        others = [reports[other] for other in nearest[1 : MATCHED_RUNS + 1]]
        rows = report.dictionary.W_dec
        matched[report.label.key] = {
            other.label.key: firing_matches(
                rows, other.dictionary.W_dec, other.dictionary.fire_rate > 0
            )
            for other in others
            if other.dictionary.d_in == report.dictionary.d_in
        }
    return matched


def _curves(path: Path) -> list[dict[str, float]]:
    """The metrics of a run that were written while it trained."""
    return [record for record in metrics_of(path) if "fvu" in record]
