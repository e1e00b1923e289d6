"""Everything that is measured of a run's names, as JSON and as tables."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vasae_jax.anchor.search import anchor_name
from vasae_jax.dictionary.card import FEW_DOCUMENTS, few_documents
from vasae_jax.dictionary.claims import BEFORE, UNTESTED
from vasae_jax.evaluation.name_effects import ablation_shares, lens_shares
from vasae_jax.evaluation.neighbours import firing_matches
from vasae_jax.evaluation.patching.model import Model
from vasae_jax.evaluation.run import RunNames, evaluate_run, run_names
from vasae_jax.names.detection import Detection, detection, detection_table
from vasae_jax.names.evidence import (
    EmbeddingHold,
    Share,
    TopShares,
    embedding_hold,
    ordered_evidence,
)
from vasae_jax.names.firings import FiringObserver
from vasae_jax.names.scores import NameScores, name_scores, score_table
from vasae_jax.training.run import Run, open_trained
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.shown import shown


@dataclass(frozen=True, kw_only=True)
class NamedRows:
    """The decoder rows of a dictionary, their names, and which of them fire."""

    W_dec: np.ndarray | jax.Array
    """[F, d]"""
    names: np.ndarray
    """int [F], each feature's name"""
    fires: np.ndarray
    """bool [F]"""


@dataclass(frozen=True)
class Stability:
    """Whether features of one dictionary are in another one too, under the same names."""

    features: int
    """Features of the first that fire."""
    candidates: int
    """Features of the second that fire."""
    mean_max_cosine: float
    """Mean over the first of the largest decoder cosine to one of the second."""
    same_name: Share
    """Share of the first whose match, the one of that cosine, has the same name."""


def stability(first: NamedRows, second: NamedRows) -> Stability:
    """Match each firing feature of ``first`` with the firing one of ``second`` nearest to it.

    Several features may have the same match. Dead features neither match nor are matched.

    Raises:
        UserError: the widths differ, or a row is not finite.
    """
    firing, others = np.flatnonzero(first.fires), np.flatnonzero(second.fires)
    if not len(firing) or not len(others):
        return Stability(len(firing), len(others), 0.0, same_name=Share(0.0, 0.0))
    match = firing_matches(np.asarray(first.W_dec)[firing], second.W_dec, second.fires)
    names = first.names[firing]
    size = int(max(first.names.max(), second.names.max())) + 1
    bearers = np.bincount(second.names[others], minlength=size)
    chance = float(bearers[names].mean()) / len(others)
    same = Share(float(np.mean(names == second.names[match.ids[:, 0]])), chance)
    cosine = float(match.cosines[:, 0].astype(np.float64).mean())
    return Stability(len(firing), len(others), cosine, same)


@dataclass(frozen=True)
class NameMetrics:
    """The metrics of a run's names; one that was not asked for is None."""

    anchor: str
    """The anchors of the embedding names, in words."""
    names_by: str
    """What layer names were chosen by, in words."""
    rows: int
    """Unmasked rows whose firings were observed."""
    layer: tuple[NameScores, ...]
    """What layer names hold, over all firing features first."""
    detection: Detection
    """Layer names as detectors of firing."""
    documents: int
    """Documents of the split: evidence of few is weak, however many rows they have."""
    embedding: EmbeddingHold
    """What embedding names hold."""
    logit_lens: TopShares
    """Whether decoder rows, read by the head, raise their embedding names most."""
    ablation: TopShares | None = None
    """Whether ablating a feature lowers its embedding name most. Needs the language model."""
    ablation_before: TopShares | None = None
    """The same for features whose layer names say *before*, by the first of these names."""
    stability: Stability | None = None
    """Needs another run."""
    against: str | None = None
    """That other run: the last part of its directory."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value without what was not measured."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def table(self) -> str:
        """Readable tables: layer names, and embedding names beside shuffled ones."""
        tables = [
            f"layer names by {self.names_by}",
            score_table(self.layer, self.rows),
            detection_table(self.detection),
        ]
        if self.documents < FEW_DOCUMENTS:
            tables.append(few_documents(self.documents))
        if self.ablation_before is not None:
            lines = _ablation_lines(self.ablation_before)
            tables.append(_two_columns("layer names that say before", lines))
        head = f"names by {self.anchor}, over {self.rows} unmasked rows"
        return "\n\n".join([*tables, _two_columns(head, self._lines())])

    def _lines(self) -> Iterator[tuple[str, str, str]]:
        hold = self.embedding
        yield f"activation of {hold.features} firing features, mean share", "", ""
        yield _line(f"  at one of its {hold.names} names", hold.at)
        yield _line(f"  just before one of its {hold.names} names", hold.before)
        yield f"logit lens of {self.logit_lens.features} firing features", "", ""
        yield from _top_lines(self.logit_lens, "raised")
        if self.ablation is not None:
            yield from _ablation_lines(self.ablation)
        if self.stability is not None:
            same, other = self.stability, shown(self.against or "another run")
            yield f"matched with {same.candidates} firing features of {other}", "", ""
            yield _line("  its nearest by decoder cosine has the same name", same.same_name)
            yield "  mean cosine to the nearest", f"{same.mean_max_cosine:.3f}", ""


def _two_columns(head: str, lines: Iterator[tuple[str, str, str]]) -> str:
    """A table of what names reach and what shuffled ones do."""
    table = [(head, "named", "shuffled"), *lines]
    width = max(len(line[0]) for line in table)
    return "\n".join(f"{a:<{width}}  {b:>12}  {c:>12}".rstrip() for a, b, c in table)


def _ablation_lines(shares: TopShares) -> Iterator[tuple[str, str, str]]:
    yield f"ablation of {shares.features} firing features on {shares.rows} rows", "", ""
    yield from _top_lines(shares, "lowered")


def _top_lines(shares: TopShares, verb: str) -> Iterator[tuple[str, str, str]]:
    yield _line(f"  its name is the token {verb} most", shares.top1)
    yield _line(f"  its name is among the five {verb} most", shares.top5)


def _line(head: str, share: Share) -> tuple[str, str, str]:
    return head, f"{share.named:.2%}", f"{share.shuffled:.3%}"


def measure_names(
    run: Run,
    names: RunNames,
    observer: FiringObserver,
    split: str,
    *,
    model: Model | None = None,
    other: Run | None = None,
    against: str | None = None,
) -> NameMetrics:
    """Every metric of the names of ``run`` that is asked for.

    Args:
        run: a trained run.
        names: of its features.
        observer: has seen an evaluation of the run over ``split``.
        split: that split.
        model: the language model of its cache, for the ablation of features with embedding names
            and of those whose layer names say *before*.
        other: a run over the same cache and layer, for stability.
        against: the directory of ``other``, whose last part is kept.

    Raises:
        UserError: the cache lacks the split, or a column is damaged.
    """
    firings, first = observer.firings(), names.embedding.ids[:, 0]
    layer, evidence = ordered_evidence(firings, names.layer, observer.row_tokens())
    fired = np.bincount(firings.feature, minlength=len(first))
    cache, W_dec = run.cache, run.params["W_dec"]
    ablation = ablation_before = None
    if model is not None:
        ablation = ablation_shares(run, model, split, firings, first)
        named = (layer.relation == BEFORE) & (evidence.verdict != UNTESTED)
        ablation_before = ablation_shares(run, model, split, firings.of(named), layer.ids[:, 0])
    return NameMetrics(
        anchor=anchor_name(center=run.config.anchor.center),
        names_by=names.by,
        rows=observer.rows,
        layer=name_scores(
            firings,
            layer,
            evidence,
            np.linalg.norm(np.asarray(W_dec, np.float64), axis=1),
        ),
        detection=detection(layer, evidence, observer.rows),
        documents=observer.documents,
        embedding=embedding_hold(firings, names.embedding.ids),
        logit_lens=lens_shares(W_dec, first, fired, cache.final_norm(), cache.unembedding()),
        ablation=ablation,
        ablation_before=ablation_before,
        stability=None if other is None else _stability(run, first, fired > 0, other, split),
        against=None if against is None else Path(against).absolute().name,
    )


def open_other_run(path: str, run: Run) -> Run:
    """Another run to compare the names of ``run`` with, over the same cache.

    Raises:
        UserError: no such run, or one of another width, layer or anchor.
    """
    other = open_trained(path, run.cache.url, run.mesh)
    for what, expected in _comparable(run).items():
        if (actual := _comparable(other)[what]) != expected:
            raise UserError(
                f"run {path} has {what} {actual}; expected {expected} as the run that it is "
                "compared with"
            )
    return other


def _comparable(run: Run) -> dict[str, str]:
    """What two runs must have in common for their names to be compared, by what it is called."""
    config = run.config
    return {
        "site": str(config.data.input_site),
        "names by": anchor_name(center=config.anchor.center),
    }


def _stability(run: Run, names: np.ndarray, fires: np.ndarray, other: Run, split: str) -> Stability:
    """Stability against ``other``, whose firing features are counted on the same rows."""
    other_names, observer = run_names(other, by="weights"), FiringObserver(other.cache, split)
    evaluate_run(other, other_names, split, observer)
    first = other_names.embedding.ids[:, 0]
    other_fires = np.bincount(observer.firings().feature, minlength=len(first)) > 0
    return stability(
        NamedRows(W_dec=run.params["W_dec"], names=names, fires=fires),
        NamedRows(W_dec=other.params["W_dec"], names=first, fires=other_fires),
    )
