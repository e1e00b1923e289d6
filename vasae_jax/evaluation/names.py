"""Stability: do the features of another run or checkpoint bear the same names?"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax
import numpy as np

from vasae_jax.anchor import anchor_name
from vasae_jax.dictionary.claims import BEFORE
from vasae_jax.evaluation.name_effects import direct_relation, output_relation
from vasae_jax.evaluation.patching.model import Model
from vasae_jax.evaluation.run import RunNames, evaluate_run, run_names
from vasae_jax.names.by_embedding import nearest
from vasae_jax.names.evidence import InputRelation, Share, TopShares, evidence, input_relation
from vasae_jax.names.firings import ROWS, Watch
from vasae_jax.names.scores import Held, held, held_table
from vasae_jax.training.run import Run, open_trained
from vasae_jax.utils.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two dictionaries over the same rows."""

    W_dec: np.ndarray | jax.Array
    """[F, d]"""
    names: np.ndarray
    """int [F], each feature's name"""
    fires: np.ndarray
    """bool [F]"""


@dataclass(frozen=True)
class Stability:
    """How features of one dictionary are found again in another one."""

    features: int
    """Features of the first that fire."""
    candidates: int
    """Features of the second that fire."""
    mean_max_cosine: float
    """Mean over the first of the largest decoder cosine to one of the second."""
    same_name: Share
    """Share of the first whose match, the one of that cosine, bears the same name."""


def stability(first: Side, second: Side) -> Stability:
    """Match each firing feature of ``first`` with the firing one of ``second`` nearest to it.

    Several features may have the same match. Dead features neither match nor are matched.

    Raises:
        UserError: the widths differ, or a row is not finite.
    """
    mine, others = np.flatnonzero(first.fires), np.flatnonzero(second.fires)
    if not len(mine) or not len(others):
        nothing = Share(named=0.0, shuffled=0.0)
        return Stability(len(mine), len(others), mean_max_cosine=0.0, same_name=nothing)
    ids, cosines = nearest(np.asarray(first.W_dec)[mine], np.asarray(second.W_dec)[others])
    names, matched = first.names[mine], second.names[others][ids]
    size = int(max(first.names.max(), second.names.max())) + 1
    bearers = np.bincount(second.names[others], minlength=size)
    chance = float(bearers[names].mean()) / len(others)
    same = Share(float(np.mean(names == matched)), chance)
    return Stability(len(mine), len(others), float(cosines.astype(np.float64).mean()), same)


# All that is measured of names, as JSON and as a table.


@dataclass(frozen=True)
class NameWorth:
    """What a run's names are worth; a measure that was not asked for is None."""

    anchor: str
    """What the names refer to."""
    rows: int
    """Unmasked rows over which it was watched what fires."""
    layer: tuple[Held, ...]
    """What layer names hold, over all firing features first."""
    inputs: InputRelation
    direct: TopShares
    output: TopShares | None = None
    """Needs the language model."""
    output_before: TopShares | None = None
    """The same for features whose layer names say *before*, by the first of these names."""
    stability: Stability | None = None
    """Needs another run."""
    against: str | None = None
    """That other run."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value without what was not measured."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def table(self) -> str:
        """Readable tables: layer names, and names by embeddings beside shuffled ones."""
        tables = [held_table(self.layer, self.rows)]
        if self.output_before is not None:
            tables.append(_beside("layer names that say before", _lowered(self.output_before)))
        head = f"names by {self.anchor}, over {self.rows} unmasked rows"
        return "\n\n".join([*tables, _beside(head, self._lines())])

    def _lines(self) -> Iterator[tuple[str, str, str]]:
        inputs = self.inputs
        yield f"activation of {inputs.features} firing features, mean share", "", ""
        yield _line(f"  at one of its {inputs.names} names", inputs.at)
        yield _line(f"  just before one of its {inputs.names} names", inputs.just_before)
        yield f"its row through the head, {self.direct.features} firing features", "", ""
        yield from _tops(self.direct, "raised")
        if self.output is not None:
            yield from _lowered(self.output)
        if self.stability is not None:
            same = self.stability
            yield f"found again among {same.candidates} firing features of {self.against}", "", ""
            yield _line("  its nearest by decoder cosine has the same name", same.same_name)
            yield "  mean cosine to the nearest", f"{same.mean_max_cosine:.3f}", ""


def _beside(head: str, lines: Iterator[tuple[str, str, str]]) -> str:
    """A table of what names reach and what shuffled ones do."""
    table = [(head, "named", "shuffled"), *lines]
    width = max(len(line[0]) for line in table)
    return "\n".join(f"{a:<{width}}  {b:>12}  {c:>12}".rstrip() for a, b, c in table)


def _lowered(found: TopShares) -> Iterator[tuple[str, str, str]]:
    yield f"taken from {found.rows} rows, {found.features} firing features", "", ""
    yield from _tops(found, "lowered")


def _tops(found: TopShares, how: str) -> Iterator[tuple[str, str, str]]:
    yield _line(f"  its name is the token {how} most", found.top1)
    yield _line(f"  its name is among the five {how} most", found.top5)


def _line(head: str, share: Share) -> tuple[str, str, str]:
    return head, f"{share.named:.2%}", f"{share.shuffled:.3%}"


# Every measure of a run's names that is asked for.


def measure_names(
    run: Run,
    names: RunNames,
    watch: Watch,
    split: str,
    *,
    model: Model | None = None,
    other: Run | None = None,
    against: str | None = None,
) -> NameWorth:
    """What the names of ``run`` are worth.

    Args:
        run: a trained run.
        names: the tokens nearest to its features.
        watch: has watched an evaluation of the run over ``split``.
        split: that split.
        model: the language model of its cache, for the output relation of names by embedding
            and of layer names that say *before*.
        other: a run over the same cache and layer, for stability.
        against: what to call it.

    Raises:
        UserError: the cache lacks the split, or a column is damaged.
    """
    found, stated = watch.firings(), names.stated.ids
    first = stated[:, 0]
    fired = np.bincount(found.feature, minlength=len(stated))
    cache, rows = run.cache, np.asarray(run.params["W_dec"], np.float64)
    worth = evidence(found, names.layer, watch.watched())
    direct = (run.params["W_dec"], first, fired, cache.final_norm(), cache.unembedding())
    output = output_before = None
    if model is not None:
        output = output_relation(run, model, split, found, first)
        later = found.of(names.layer.relation == BEFORE)
        output_before = output_relation(run, model, split, later, names.layer.ids[:, 0])
    return NameWorth(
        anchor=anchor_name(center=run.config.anchor.center),
        rows=watch.rows,
        layer=held(found, names.layer, worth, np.linalg.norm(rows, axis=1)),
        inputs=input_relation(found, stated),
        direct=direct_relation(*direct),
        output=output,
        output_before=output_before,
        stability=None if other is None else _stability(run, first, fired > 0, other, split),
        against=against,
    )


def open_other(path: str, run: Run) -> Run:
    """Another run to compare the names of ``run`` with, over the same cache.

    Raises:
        UserError: no such run, or one of another width, layer or anchor.
    """
    other = open_trained(path, run.cache.url, run.mesh)
    for what, found, expected in (
        ("layer", other.config.data.layer, run.config.data.layer),
        (
            "names by",
            anchor_name(center=other.config.anchor.center),
            anchor_name(center=run.config.anchor.center),
        ),
    ):
        if found != expected:
            raise UserError(
                f"run {path} has {what} {found}; expected {expected} as the run that it is "
                "compared with"
            )
    return other


def _stability(run: Run, names: np.ndarray, fires: np.ndarray, other: Run, split: str) -> Stability:
    """Stability against ``other``, whose firing features are counted on the same rows."""
    theirs, watch = run_names(other), Watch(other.cache, split, ROWS)
    evaluate_run(other, theirs, split, watch)
    first = theirs.stated.ids[:, 0]
    found = np.bincount(watch.firings().feature, minlength=len(first)) > 0
    return stability(
        Side(W_dec=run.params["W_dec"], names=names, fires=fires),
        Side(W_dec=other.params["W_dec"], names=first, fires=found),
    )
