"""The field's scores of a run's names, as JSON and as a table."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.activations import activation_of
from vasae_jax.anchor.layer_anchors import layer_anchors
from vasae_jax.anchor.search import anchor_matrix
from vasae_jax.cache import Cache
from vasae_jax.dictionary.card import FEW_DOCUMENTS, few_documents
from vasae_jax.dictionary.claims import AT, BEFORE
from vasae_jax.evaluation.bootstrap import (
    DRAWS,
    DocumentSums,
    Figure,
    bounded,
    figures,
    ratio,
)
from vasae_jax.evaluation.name_effects import head_rows, largest_products
from vasae_jax.evaluation.patching.model import Model
from vasae_jax.evaluation.run import NAMES, SPLIT, NamesBy, RunNames, screened
from vasae_jax.evaluation.scores.input_score import (
    WINDOWS,
    input_scores,
    is_listed,
    strongest_windows,
)
from vasae_jax.evaluation.scores.matching import (
    CANDIDATES,
    credit,
    draw_rounds,
    matching_figures,
    scores_by_counts,
    scores_by_names,
)
from vasae_jax.evaluation.scores.steering import (
    TOKENS,
    Steered,
    output_score,
    steer_features,
)
from vasae_jax.evaluation.training_rows import count_training_rows
from vasae_jax.names.by_evidence import listed_by_evidence
from vasae_jax.names.by_layer import LayerNames, listed_by_layer
from vasae_jax.names.counts import FiringCounts
from vasae_jax.names.firings import FiringObserver, Firings
from vasae_jax.training.run import Run
from vasae_jax.utils.errors import UserError

FEATURES = 100
"""Features that are clamped at most, drawn from those that have an input score."""
SEED = 0

INPUT_ROWS = {
    "names": f"{TOKENS} names at which it fires",
    "shown": "the names that are shown, at or before",
    "strongest": f"the {TOKENS} tokens of strongest training rows",
    "embedding": f"the {NAMES} nearest embeddings",
}
OUTPUT_ROWS = {
    "names_before": f"{TOKENS} names before which it fires",
    "names_at": f"{TOKENS} names at which it fires",
    "logit_lens": f"the {TOKENS} tokens that its decoder row raises",
}
PLAYERS = {
    "names": "by the names that are shown",
    "strongest": f"by {NAMES} tokens of strongest training rows",
    "names_25": f"by {TOKENS} names at which it fires",
    "strongest_25": f"by {TOKENS} tokens of strongest training rows",
    "counts": "by all counts of training rows",
}
"""Rows of the table by their names in the JSON."""


@dataclass(frozen=True)
class InputScore:
    """How often the strongest firing in a window is at a listed token."""

    features: int
    """Features that fire in WINDOWS windows or more: all of them are measured."""
    windows: int
    tokens: int
    figures: dict[str, Figure]
    """By the names in INPUT_ROWS; intervals over documents."""


@dataclass(frozen=True)
class OutputScore:
    """How many of the tokens that rise most when a feature is clamped are listed."""

    model: str
    features: int
    tokens: int
    off_target: int
    """Features of which a KL could not be brought to its target."""
    figures: dict[str, Figure]
    """By the names in OUTPUT_ROWS; intervals over the features that were drawn."""


@dataclass(frozen=True)
class Matching:
    """The share of rounds of the matching game that each player wins."""

    rounds: int
    strong_rounds: int
    candidates: int
    chance: float
    figures: dict[str, dict[str, Figure]]
    """Of ``all`` and of ``strong`` rows, by the names in PLAYERS; intervals over documents."""


@dataclass(frozen=True)
class Scores:
    """The field's scores of a run's names on held-out rows."""

    names_by: str
    """What names were chosen by, in words."""
    training_rows: int
    """Training rows whose firings the lists and players that read some saw."""
    documents: int
    draws: int
    input: InputScore
    matching: Matching
    output: OutputScore | None = None
    """Needs the language model."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value, without ``output`` where there was no model."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def table(self) -> str:
        """A readable table, with what the published figures are of."""
        head = (f"scores of names by {self.names_by}", "", "95% interval")
        lines = [head, *self._input_lines(), *self._output_lines(), *self._matching_lines()]
        width = max(len(line[0]) for line in lines)
        text = [f"{a:<{width}}  {b:>7}  {c:>14}".rstrip() for a, b, c in lines]
        text.append(
            "Query Lens (arXiv:2606.07617) has at best 39.3% and 15.2% on GPT-2, 21.8% and 10.6% "
            "on Gemma-3-270M,\nother models and SAEs: it reads no corpus, and these names do"
        )
        if self.documents < FEW_DOCUMENTS:
            text.append(few_documents(self.documents))
        return "\n".join(text)

    def _input_lines(self) -> list[tuple[str, str, str]]:
        score = self.input
        head = f"input score, {score.features:,} features of {score.windows}+ windows"
        return [(head, "", ""), *_lines(INPUT_ROWS, score.figures)]

    def _output_lines(self) -> list[tuple[str, str, str]]:
        score = self.output
        if score is None:
            return []
        head = f"output score, {score.features:,} features, {score.off_target} off target"
        return [(head, "", ""), *_lines(OUTPUT_ROWS, score.figures)]

    def _matching_lines(self) -> list[tuple[str, str, str]]:
        game, lines = self.matching, []
        for rows, rounds in (("all", game.rounds), ("strong", game.strong_rounds)):
            head = f"which of {game.candidates} features fires, {rounds:,} rounds, {rows} rows"
            lines += [(head, "", ""), ("  by chance", f"{game.chance:.1%}", "")]
            lines += _lines(PLAYERS, game.figures[rows])
        return lines


def _lines(titles: Mapping[str, str], found: Mapping[str, Figure]) -> list[tuple[str, str, str]]:
    return [(f"  {titles[name]}", *_cells(figure)) for name, figure in found.items()]


def _cells(figure: Figure) -> tuple[str, str]:
    if figure.value is None:
        return "-", ""
    if figure.low is None or figure.high is None:
        return f"{figure.value:.1%}", ""
    return f"{figure.value:.1%}", f"{100 * figure.low:.1f}..{figure.high:.1%}"


def check_split(split: str) -> None:
    """Raise UserError for rows that names were chosen on."""
    if split != SPLIT:
        raise UserError(
            f"scores were asked for on the split {split}, from which names are chosen; "
            f"expected {SPLIT}"
        )


def measure_scores(
    run: Run,
    names: RunNames,
    by: NamesBy,
    observer: FiringObserver,
    folder: Path,
    *,
    anchors_of: Cache | None = None,
    model: Model | None = None,
) -> Scores:
    """The field's scores of a run's names.

    Args:
        run: a trained run.
        names: of its features.
        by: the rule that chose its layer names.
        observer: has seen an evaluation of the run over the held-out rows.
        folder: where features that have been clamped are kept, from which a stopped run goes on.
        anchors_of: the other cache that names come from, if they do.
        model: the language model, for the output score.

    Raises:
        UserError: a cache is damaged, or ``folder`` cannot be written to.
    """
    source, firings = anchors_of or run.cache, observer.firings()
    counts = names.counts or count_training_rows(run, source, screened=screened(run))
    documents = DocumentSums.of(run.cache, SPLIT)
    lists = tuple(_names_in(run, source, by, counts, relation) for relation in (AT, BEFORE))
    peaks = strongest_windows(firings, observer.row_tokens().window)
    at = counts.relations[AT]
    strongest = at.best(at.strongest, len(counts.fired), TOKENS)
    output = None
    if model is not None:
        output = _output(run, model, lists, firings, peaks, folder)
    return Scores(
        names_by=names.by,
        training_rows=counts.rows,
        documents=len(documents.documents),
        draws=DRAWS,
        input=_input(peaks, names, lists[AT], strongest, documents),
        matching=_matching(run, names.layer, lists[AT], strongest, counts, observer, documents),
        output=output,
    )


def _names_in(
    run: Run, source: Cache, by: NamesBy, counts: FiringCounts, relation: int
) -> np.ndarray:
    """TOKENS names of each feature in one relation, by the rule that names the run; [F, TOKENS]."""
    if by == "evidence":
        return listed_by_evidence(counts, relation, TOKENS)
    data, sae = run.config.data, run.config.sae
    anchors = layer_anchors(source, data.input_site, data.skip_positions, data.max_norm)
    means = anchors.at if relation == AT else anchors.before
    return listed_by_layer(run.params, activation_of(sae), sae.pre_bias, means, TOKENS)


def _input(
    peaks: Firings,
    names: RunNames,
    at: np.ndarray,
    strongest: np.ndarray,
    documents: DocumentSums,
) -> InputScore:
    feature, token = peaks.feature, peaks.token
    of_relation = np.where(names.layer.relation[feature] == AT, token, peaks.next_token)
    listed = {
        "names": is_listed(at, feature, token),
        "shown": is_listed(names.layer.ids, feature, of_relation),
        "strongest": is_listed(strongest, feature, token),
        "embedding": is_listed(names.embedding.ids, feature, token),
    }
    found = input_scores(peaks, listed, documents)
    return InputScore(len(np.unique(feature)), WINDOWS, TOKENS, found)


def _output(
    run: Run,
    model: Model,
    lists: tuple[np.ndarray, ...],
    firings: Firings,
    peaks: Firings,
    folder: Path,
) -> OutputScore:
    """The output score of features drawn from those that have an input score."""
    eligible = np.unique(peaks.feature)
    chosen = np.random.default_rng(SEED).permutation(eligible)[:FEATURES]
    largest = np.zeros(len(run.params["W_dec"]), np.float32)
    np.maximum.at(largest, firings.feature, firings.activation)
    steered = steer_features(run, model, SPLIT, chosen.tolist(), largest[chosen], folder)
    listed = {
        "names_before": lists[BEFORE][chosen],
        "names_at": lists[AT][chosen],
        "logit_lens": _logit_lens(run, chosen),
    }
    return OutputScore(
        model=model.id,
        features=len(chosen),
        tokens=TOKENS,
        off_target=sum(not of.reached for of in steered),
        figures=_output_figures(steered, listed),
    )


def _logit_lens(run: Run, features: np.ndarray) -> np.ndarray:
    """The TOKENS tokens whose logits each feature's decoder row raises most."""
    unembedding = run.cache.unembedding()
    rows = head_rows(np.asarray(run.params["W_dec"])[features], run.cache.final_norm())
    if not len(rows):
        return np.zeros((0, TOKENS), np.int64)
    return largest_products(rows, unembedding, min(TOKENS, len(unembedding)))[1]


def _output_figures(steered: list[Steered], listed: Mapping[str, np.ndarray]) -> dict[str, Figure]:
    """Means over features; intervals by drawing features, since prefixes are the same for all."""
    if not steered:
        return {name: Figure(None, None, None) for name in listed}
    raised = np.array([of.raised for of in steered])
    scores = {name: output_score(raised, ids) for name, ids in listed.items()}

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {name: ratio(weights @ of, weights.sum(axis=1)) for name, of in scores.items()}

    return {name: bounded(of) for name, of in figures(measure, len(steered)).items()}


def _matching(
    run: Run,
    names: LayerNames,
    listed: np.ndarray,
    strongest: np.ndarray,
    counts: FiringCounts,
    observer: FiringObserver,
    documents: DocumentSums,
) -> Matching:
    """The game, with ``listed`` and ``strongest`` tokens [F, TOKENS] at which features fire."""
    tokens = observer.row_tokens()
    rounds = draw_rounds(observer.firings(), np.asarray(run.params["W_enc"]))
    embedding = anchor_matrix(run.cache.embedding(), center=True)
    players = {
        "names": names,
        "strongest": _all_at(strongest[:, :NAMES]),
        "names_25": _all_at(listed),
        "strongest_25": _all_at(strongest),
    }
    credits = {
        name: credit(scores_by_names(of, rounds, tokens, embedding)) for name, of in players.items()
    } | {"counts": credit(scores_by_counts(counts, rounds, tokens))}
    return Matching(
        rounds=len(rounds.row),
        strong_rounds=int(rounds.strong.sum()),
        candidates=CANDIDATES,
        chance=1 / CANDIDATES,
        figures=matching_figures(credits, rounds, documents),
    )


def _all_at(ids: np.ndarray) -> LayerNames:
    """Names ``ids`` [F, m] at which every feature fires."""
    shares = np.zeros(ids.shape, np.float32)
    return LayerNames(ids, np.full(len(ids), AT, np.int8), shares)
