"""A panel: one run with everything that its page shows, measured once."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.cache import Cache
from vasae_jax.cache.vocab import Vocab, printable
from vasae_jax.config import Config
from vasae_jax.dictionary.card import OFTEN, aligned, best_features, layer_names_text
from vasae_jax.dictionary.claims import AT, BEFORE, LAYER_CLAIM, RELATIONS, VERDICTS
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.evaluation.evaluate import Evaluation
from vasae_jax.evaluation.examples.collect import Examples
from vasae_jax.evaluation.examples.gather import gather
from vasae_jax.evaluation.neighbours import (
    HeadTokens,
    Together,
    fire_together,
    head_tokens,
    matches,
    near_features,
)
from vasae_jax.evaluation.publish import publish
from vasae_jax.names.by_embedding import Names
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.evidence import Evidence, spread_features
from vasae_jax.names.firings import Firings, Watch, contexts, largest, shuffled_hold
from vasae_jax.names.scores import Held, held, held_table
from vasae_jax.report.labels import Given, Label
from vasae_jax.training.run import Run
from vasae_jax.training.run_dir import METRICS

# A few words of text around a row of a cache, the row's own token marked.


TOKENS_BEFORE, TOKENS_AFTER = 8, 3
"""Tokens shown on either side, of the same window."""


class Snippets:
    """The text of one split, by row."""

    def __init__(self, cache: Cache, split: str) -> None:
        """Raise UserError where the cache lacks the split, or a column is damaged."""
        rows = cache.rows(split)
        self._vocab = cache.vocab()
        self._tokens = cache.column("tokens", split).read(0, rows)
        self._positions = cache.column("positions", split).read(0, rows)

    def text(self, row: int) -> str:
        """``row``'s token in brackets, between what comes before it and after it."""
        start = last = row
        while start > max(row - TOKENS_BEFORE, 0) and self._goes_on(start - 1):
            start -= 1
        while last < min(row + TOKENS_AFTER, len(self._tokens) - 1) and self._goes_on(last):
            last += 1
        left, right = self._words(start, row), self._words(row + 1, last + 1)
        return f"{left}[{self._words(row, row + 1)}]{right}"

    def _goes_on(self, row: int) -> bool:
        return bool(self._positions[row + 1] == self._positions[row] + 1)

    def _words(self, start: int, stop: int) -> str:
        data = b"".join(self._vocab.token_bytes(t) for t in self._tokens[start:stop].tolist())
        return printable(data).replace("␣", " ") if data else ""


# What a quickstart tells at its end: the measures, and named features with where they fire.


SHOWN = 12
"""Features in each of the two tables."""
NAMES = 3
"""Layer names shown of each feature."""
HEAD = ("feature", "fires", "", "name (share held)", "holds", "verdict", "most", "an example")


def summary(run: Run, dictionary: Dictionary, evaluation: Evaluation, watch: Watch) -> str:
    """The evaluation, how well names hold, and two tables: the best names and typical ones."""
    found = watch.firings()
    shown = _Table(run, found, dictionary, evaluation.split)
    parts = [
        evaluation.table(),
        held_table(held(found, *names_of(dictionary)), watch.rows),
        f"Names that hold best, of features that fire on at least {OFTEN:.1%} of the rows",
        shown.text(best_features(dictionary, SHOWN)),
        "Typical features: evenly spaced, from those that fire most to those that fire least",
        shown.text(typical_features(dictionary)),
        "\n".join(textwrap.wrap(LAYER_CLAIM, 90)),
    ]
    return "\n\n".join(["", *parts])


def typical_features(dictionary: Dictionary, count: int = SHOWN) -> list[int]:
    """``count`` features evenly spaced in the order of fire rate, of those that fire."""
    chosen: list[int] = spread_features(dictionary.fire_rate, count).tolist()
    return chosen


class _Table:
    """Lines about features: names, what they hold, where features fire, an example."""

    def __init__(self, run: Run, found: Firings, dictionary: Dictionary, split: str) -> None:
        self._found, self._dictionary = found, dictionary
        self._vocab = run.cache.vocab()
        self._snippets = Snippets(run.cache, split)

    def text(self, features: list[int]) -> str:
        """A table of ``features``."""
        where = contexts(self._found, features, len(self._vocab))
        lines: list[tuple[str, ...]] = [HEAD]
        for place, feature in enumerate(features):
            before = self._dictionary.layer_relation[feature] == BEFORE
            lines.append(self._line(feature, (where.before if before else where.at)[place]))
        return "\n".join(aligned(lines))

    def _line(self, feature: int, shares: np.ndarray) -> tuple[str, ...]:
        dictionary = self._dictionary
        most = "  ".join(f"{self._vocab.display(t)} {s:.0%}" for t, s in largest(shares, 2))
        return (
            str(feature),
            f"{dictionary.fire_rate[feature]:.2%}",
            RELATIONS[dictionary.layer_relation[feature]],
            layer_names_text(dictionary, feature, NAMES),
            f"{dictionary.hold[feature]:.0%}",
            VERDICTS[int(dictionary.verdict[feature])],
            most,
            self._example(feature),
        )

    def _example(self, feature: int) -> str:
        """The text about the row on which the feature fires most."""
        mine = np.flatnonzero(self._found.feature == feature)
        if not len(mine):
            return ""
        strongest = mine[np.argmax(self._found.activation[mine])]
        return self._snippets.text(int(self._found.row[strongest]))


def names_of(dictionary: Dictionary) -> tuple[LayerNames, Evidence, np.ndarray]:
    """The layer names of a dictionary, what they are worth, and norms of the decoder rows."""
    names = LayerNames(
        dictionary.layer_token_ids, dictionary.layer_relation, dictionary.layer_expected
    )
    worth = Evidence(
        name_hold=dictionary.layer_hold,
        name_lift=dictionary.layer_lift,
        name_rows=dictionary.layer_rows,
        hold=dictionary.hold,
        verdict=dictionary.verdict,
    )
    return names, worth, np.linalg.norm(dictionary.W_dec.astype(np.float64), axis=1)


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
"""What :func:`vasae_jax.evaluation.publish.publish` gives."""


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
