"""The ladder: what a run's names hold between the weakest rung and what an observer reaches.

Four rungs, measured on the same held-out rows: the run's features named by embedding, as in the
paper; a ``plain`` run from a random start, without any pull, named by the rule that names the
run; the run itself; and the run's features named by an observer of training rows, who takes the
tokens with most of a feature's activation there.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.activations import activation_of
from vasae_jax.cache import Cache
from vasae_jax.dictionary.card import FEW_DOCUMENTS
from vasae_jax.dictionary.claims import AT, BEFORE, RELATIONS
from vasae_jax.evaluation.bootstrap import (
    DRAWS,
    DocumentSums,
    Figure,
    NameSums,
    bounded,
    figures,
    ratio,
)
from vasae_jax.evaluation.patching.measure import PatchingResult, SAEWindows, measure_lm
from vasae_jax.evaluation.patching.model import Model
from vasae_jax.evaluation.run import NAMES, NamesBy, RunNames, evaluate_run, run_names
from vasae_jax.evaluation.training_rows import count_training_rows
from vasae_jax.names.by_embedding import Names
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.counts import FiringCounts
from vasae_jax.names.firings import FiringObserver
from vasae_jax.training.run import Run, open_trained
from vasae_jax.training.run_dir import read_run
from vasae_jax.utils.errors import UserError

SPLIT = "heldout"
RANDOM_STARTS = ("normal", "uniform", "random")
"""``sae.decoder_init`` of the baseline: the strongest one known starts at random rows."""
POLICY = "unmasked_rows"
"""Rows that are replaced where the KL is measured: those that the SAE was trained on."""

COLUMNS = (
    ("VE", "variance_explained", "{:.4f}", -np.inf),
    ("within tokens", "variance_explained_within_tokens", "{:.4f}", -np.inf),
    ("KL", "kl", "{:.4f}", 0.0),
    ("dead", "dead", "{:.1%}", 0.0),
    ("hold@1", "hold1", "{:.1%}", 0.0),
    ("hold@10", "hold10", "{:.1%}", 0.0),
    ("dead as 0", "hold10_dead_as_0", "{:.1%}", 0.0),
    ("mass@10", "mass10", "{:.1%}", 0.0),
    ("shuffled", "shuffled10", "{:.2%}", 0.0),
)
"""Columns of the table: head, figure, how it is written, and the least that it can be."""


@dataclass(frozen=True)
class Rung:
    """One way to name features, and what the names hold."""

    run: str
    """The run whose features are named: the last part of its directory."""
    names: str
    """Where the names come from, in words."""
    figures: dict[str, Figure]
    """By the names in COLUMNS; ``kl`` is missing where no language model was given."""


@dataclass(frozen=True)
class Ladder:
    """The rungs by name, lowest first, on the same rows."""

    rows: int
    """Unmasked held-out rows whose firings were observed."""
    documents: int
    """Documents that they come from, which are drawn for the intervals."""
    training_rows: int
    """Unmasked training rows that the observer of the last rung saw."""
    draws: int
    rungs: dict[str, Rung]

    def to_json(self) -> dict[str, Any]:
        """A JSON value; the figures of a rung stand beside its run and names."""
        rungs = {
            name: {"run": rung.run, "names": rung.names}
            | {figure: asdict(value) for figure, value in rung.figures.items()}
            for name, rung in self.rungs.items()
        }
        return {**vars(self), "few_documents": self.few, "rungs": rungs}

    @property
    def few(self) -> bool:
        """Whether the documents are too few for the intervals to be relied on."""
        return self.documents < FEW_DOCUMENTS

    def table(self) -> str:
        """A readable table, two lines a rung: its figures, and their intervals."""
        head = f"ladder of names, over {self.rows:,} unmasked rows of {self.documents} documents"
        lines = [(head, *(title for title, *_ in COLUMNS)), *self._lines()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            f"{cells[0]:<{widths[0]}}  "
            + "  ".join(f"{x:>{w}}" for x, w in zip(cells[1:], widths[1:], strict=True))
            for cells in lines
        ]
        return "\n".join([*(line.rstrip() for line in text), *self._notes()])

    def _lines(self) -> Iterator[tuple[str, ...]]:
        for name, rung in self.rungs.items():
            shown = [(rung.figures.get(figure), form) for _, figure, form, _ in COLUMNS]
            yield f"{name}: {rung.names}", *(_text(figure, form) for figure, form in shown)
            yield "", *(_interval_text(figure, form) for figure, form in shown)

    def _notes(self) -> Iterator[str]:
        yield (
            f"below each figure its 95% interval, from {self.draws} draws of documents; the "
            f"observer saw {self.training_rows:,} training rows"
        )
        if self.few:
            yield (
                f"few documents: with {self.documents} the intervals are rough, and names are "
                f"tested on little text (expected at least {FEW_DOCUMENTS})"
            )


def _text(figure: Figure | None, form: str) -> str:
    return "-" if figure is None or figure.value is None else form.format(figure.value)


def _interval_text(figure: Figure | None, form: str) -> str:
    if figure is None or figure.low is None or figure.high is None:
        return ""
    return f"{form.format(figure.low).removesuffix('%')}..{form.format(figure.high)}"


def open_baseline(path: str, run: Run, folder: str, split: str = SPLIT) -> Run:
    """The ``plain`` run from a random start that the names of ``run``, in ``folder``, must beat.

    It is opened on the cache of which ``split`` of ``run`` is measured.

    Raises:
        UserError: another split, since the observer sees the training rows; no such run; it has
            an anchor, or does not start at random; the two differ in cache, rows, their number,
            features or activation; or one is an import, of whose training nothing is known.
    """
    if split != SPLIT:
        raise UserError(
            f"the ladder was asked for on the split {split}, from which its observer takes names; "
            f"expected {SPLIT}"
        )
    baseline = open_trained(path, run.cache.url, run.mesh)
    for of, opened in ((folder, run), (path, baseline)):
        if opened.imported is not None:
            raise UserError(
                f"{of} is an import, whose training is not known; expected a run of vasae train"
            )
    sae = baseline.config.sae
    if sae.method != "plain" or sae.decoder_init not in RANDOM_STARTS:
        raise UserError(
            f"run {path} is of method {sae.method} and starts at {sae.decoder_init}; expected "
            f"method plain, started at one of {', '.join(RANDOM_STARTS)} (sae.decoder_init)"
        )
    expected = _trained_on(run, folder)
    for what, actual in _trained_on(baseline, path).items():
        if actual != expected[what]:
            raise UserError(
                f"run {path} has {what} {actual}; expected {expected[what]} as {folder} has, "
                "whose baseline it is to be"
            )
    return baseline


def _trained_on(run: Run, folder: str) -> dict[str, str]:
    """What a run and its baseline must have in common, by what it is called."""
    data = run.config.data
    return {
        "a cache of digest": read_run(Path(folder)).cache_digest,
        "the site": str(data.input_site),
        "data.skip_positions": str(data.skip_positions),
        "data.max_norm": str(data.max_norm),
        "a number of training rows of": f"{data.batch * run.step:,}",
        "a number of features of": f"{len(run.params['W_dec']):,}",
        "the activation": repr(activation_of(run.config.sae)),
    }


@dataclass(frozen=True)
class MeasuredRun:
    """A run whose held-out rows have been evaluated."""

    run: Run
    folder: str
    names: RunNames
    observer: FiringObserver
    documents: DocumentSums
    patched: PatchingResult | None
    """The effect on the language model, where there is one."""


def measure_baseline(
    run: Run,
    folder: str,
    anchors_of: Cache | None,
    by: NamesBy,
    model: Model | None = None,
    windows: int = 64,
) -> MeasuredRun:
    """Evaluate a baseline on its held-out rows, with names by the rule that names the run.

    Args:
        run: the baseline, as :func:`open_baseline` opens it.
        folder: its directory.
        anchors_of: the cache that names come from, as :func:`run_names` takes it.
        by: the rule.
        model: the language model, for the KL by patching.
        windows: most windows that are patched.

    Raises:
        UserError: a chunk of a cache is missing or damaged.
    """
    names, observer = run_names(run, anchors_of, by), FiringObserver(run.cache, SPLIT)
    documents = DocumentSums.of(run.cache, SPLIT)
    evaluate_run(run, names, SPLIT, observer, documents)
    patched = None if model is None else measure_lm(run, model, SPLIT, windows)
    return MeasuredRun(run, folder, names, observer, documents, patched)


def measure_ladder(this: MeasuredRun, baseline: MeasuredRun, text: Cache) -> Ladder:
    """The rungs of ``this`` run over its ``baseline``.

    ``text`` is the cache that names come from: the observer sees its training rows.

    Raises:
        UserError: a chunk of it is missing or damaged.
    """
    seen = count_training_rows(this.run, text)
    by_embedding, relation = embedding_names(seen, this.names.embedding)
    named = {
        "embedding": (this, by_embedding, f"nearest embeddings, {relation}"),
        "plain": (baseline, baseline.names.layer, f"plain, random start, by {baseline.names.by}"),
        "run": (this, this.names.layer, f"this run, by {this.names.by}"),
        "observer": (this, observed_names(seen), "most activation on training rows"),
    }
    return Ladder(
        rows=this.observer.rows,
        documents=len(this.documents.documents),
        training_rows=seen.rows,
        draws=DRAWS,
        rungs={
            name: Rung(Path(of.folder).absolute().name, words, rung_figures(of, names))
            for name, (of, names, words) in named.items()
        },
    )


def embedding_names(seen: FiringCounts, names: Names) -> tuple[LayerNames, str]:
    """Names by embedding in one relation for all, the one in which they hold more of ``seen``."""
    at, before = (seen.shares(relation, names.ids).sum() for relation in (AT, BEFORE))
    relation = BEFORE if before > at else AT
    relations = np.full(len(names.ids), relation, np.int8)
    return LayerNames(names.ids, relations, names.cosines), RELATIONS[relation]


def observed_names(seen: FiringCounts, most: int = NAMES) -> LayerNames:
    """The tokens at which, or before which, ``seen`` has most of each feature's activation.

    Frequent tokens count as any other. A feature takes the relation in which its tokens hold more
    together; ``expected`` are their shares.
    """
    ids = [
        relation.best(relation.activation, len(seen.fired), most).astype(np.int32)
        for relation in seen.relations
    ]
    shares = [seen.shares(relation, ids[relation]) for relation in (AT, BEFORE)]
    before = (shares[BEFORE].sum(axis=1) > shares[AT].sum(axis=1))[:, None]
    chosen_ids, chosen_shares = (np.where(before, pair[BEFORE], pair[AT]) for pair in (ids, shares))
    relation = before[:, 0].astype(np.int8)
    return LayerNames(chosen_ids, relation, chosen_shares.astype(np.float32))


def rung_figures(of: MeasuredRun, names: LayerNames) -> dict[str, Figure]:
    """The figures of a rung, where ``names`` name the features of a run."""
    norms = np.linalg.norm(np.asarray(of.run.params["W_dec"], np.float64), axis=1)
    sums = NameSums(of.observer.firings(), names, norms, of.documents)
    patched, documents = of.patched, of.documents
    window_sums = None if patched is None else _window_sums(patched.sae_windows, documents)

    def measure(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = documents.explained(weights) | sums.measure(weights)
        if window_sums is not None:
            kl, positions = window_sums @ weights.T
            values["kl"] = ratio(kl, positions)
        return values

    least = {name: low for _, name, _, low in COLUMNS}
    return {
        name: bounded(figure, least[name])
        for name, figure in figures(measure, len(documents)).items()
    }


def _window_sums(windows: SAEWindows, documents: DocumentSums) -> np.ndarray:
    """Summed KL and its number of positions by group of documents, float64 [2, G]."""
    group, size = documents.group[windows.first_row], len(documents)
    sums = (windows.kl[POLICY], windows.positions)
    return np.stack([np.bincount(group, values, size) for values in sums])
