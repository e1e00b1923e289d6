"""A panel: one run with everything that its page shows, measured once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.cache.vocab import Vocab
from vasae_jax.config import Config
from vasae_jax.dictionary import Dictionary
from vasae_jax.dictionary.from_run import publish
from vasae_jax.evaluation.contexts import Firings, Watch, shuffled_hold
from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.evaluation.examples.contexts import Examples
from vasae_jax.evaluation.examples.gather import gather
from vasae_jax.evaluation.names.holds import Held, held
from vasae_jax.evaluation.relatives.head import HeadTokens, head_tokens
from vasae_jax.evaluation.relatives.near import matches, near_features
from vasae_jax.evaluation.relatives.together import Together, fire_together
from vasae_jax.naming.layer import AT
from vasae_jax.naming.nearest import Names
from vasae_jax.report.labels import Given, Label
from vasae_jax.report.summary import names_of
from vasae_jax.training.rundir import METRICS

RELATIVES = 8
"""Near features, features that fire together, and tokens raised and lowered, shown of each."""
OTHERS = 4
"""Runs that a run's features are matched with, at most."""


@dataclass(frozen=True)
class Panel:
    """What the page shows of one run; arrays over its F features."""

    label: Label
    config: Config
    dictionary: Dictionary
    vocab: Vocab
    vocab_key: str
    """Panels of equal token strings have equal keys."""
    evaluation: dict[str, Any]
    """As JSON."""
    held: tuple[Held, ...]
    """What layer names hold, over all firing features first."""
    shuffled: np.ndarray
    """float32 [F], what the names of other firing features hold of its activation, on average"""
    split: str
    """The split that examples are from."""
    examples: Examples
    histogram: np.ndarray
    """int64 [F, bins], firings by activation"""
    near: Names
    together: Together
    head: HeadTokens
    curves: list[dict[str, float]]
    """The lines of metrics.jsonl."""
    fvu_by_position: np.ndarray
    """[T], nan at positions without rows"""


Published = tuple[Dictionary, Evaluation, Watch]
"""What :func:`vasae_jax.dictionary.from_run.publish` gives."""


def make_panel(
    given: Given, split: str, saved: Path | None, published: Published | None = None
) -> Panel:
    """Measure a run, and gather its examples from ``split``.

    ``saved`` is where the pass over the split keeps its progress; ``published`` is what was
    measured of the run, if it was measured already.

    Raises:
        UserError: a damaged cache, or a split that it lacks.
    """
    run = given.run
    dictionary, evaluation, watch = published or publish(run)
    found, names = watch.firings(), names_of(dictionary)
    gathered = gather(run, split, saved)
    return Panel(
        label=given.label,
        config=run.config,
        dictionary=dictionary,
        vocab=run.cache.vocab(),
        vocab_key=run.cache.manifest.digests["tokens"][:12],
        evaluation=evaluation.to_json(),
        held=held(found, *names),
        shuffled=_shuffled(found, dictionary),
        split=split,
        examples=gathered.examples,
        histogram=gathered.histogram,
        near=near_features(run.params["W_dec"], RELATIVES, run.mesh),
        together=fire_together(found, dictionary.d_sae, RELATIVES),
        head=head_tokens(
            dictionary.W_dec, run.cache.final_norm(), run.cache.unembedding(), RELATIVES
        ),
        curves=_curves(given.path),
        fvu_by_position=gathered.positions.fvu(),
    )


def _shuffled(found: Firings, dictionary: Dictionary) -> np.ndarray:
    hold = shuffled_hold(found, dictionary.layer_token_ids)
    own = np.where(dictionary.layer_relation == AT, hold.at, hold.before)
    return own.astype(np.float32)


def match_panels(panels: Sequence[Panel]) -> dict[str, dict[str, Names]]:
    """By the keys of two panels, each feature's nearest firing feature in the other; ids [F, 1].

    A panel is compared with the OTHERS that stand nearest to it in the list, and of these with
    those whose rows are as wide: of many runs not each with each.
    """
    found: dict[str, dict[str, Names]] = {}
    for place, one in enumerate(panels):
        order = sorted(range(len(panels)), key=lambda other: (abs(other - place), other))
        near = [panels[other].dictionary for other in order[1 : OTHERS + 1]]
        keys = [panels[other].label.key for other in order[1 : OTHERS + 1]]
        found[one.label.key] = {
            key: matches(one.dictionary.W_dec, other.W_dec, other.fire_rate > 0)
            for key, other in zip(keys, near, strict=True)
            if other.d_in == one.dictionary.d_in
        }
    return found


def _curves(path: Path) -> list[dict[str, float]]:
    """The metrics of a run that were written while it trained; whole lines only."""
    file = path / METRICS
    lines = file.read_text().splitlines() if file.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return [record for record in records if "fvu" in record]
