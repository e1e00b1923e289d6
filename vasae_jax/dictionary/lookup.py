"""Looking into a dictionary: a feature's names, the features of a name, the features of a row."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vasae_jax.dictionary.claims import (
    HOLDS,
    NO_NAME,
    RELATIONS,
    UNTESTED,
    VERDICTS,
    VERDICTS_TOGETHER,
)
from vasae_jax.utils.errors import UserError

if TYPE_CHECKING:
    from vasae_jax.dictionary.dictionary import Dictionary


TOGETHER = "tested together"
"""The verdict on one name where a dictionary has only one of all together."""


@dataclass(frozen=True)
class LayerName:
    """A layer name: a token at or before which the feature should fire."""

    token_id: int
    text: str
    """Its printable form, a space as ␣."""
    expected: float
    """Share of the feature's activation at (or before) the token on training rows; of names by
    weights alone, expected there."""
    hold: float
    """Share of its activation at (or before) the token on held-out rows."""
    lift: float
    """``hold`` divided by the share of held-out rows at (or before) the token."""
    rows: int
    """Held-out rows at (or before) the token on which the feature fires."""
    text_rows: int | None
    """Held-out rows at (or before) the token in all. This and the next two are None where names
    were tested together alone, as in dictionaries before version 5."""
    precision: float | None
    """``rows`` over ``text_rows``; 0 where there are none."""
    recall: float | None
    """``rows`` over the held-out rows on which the feature fires; 0 where there are none."""
    verdict: str
    """``holds``, ``in part``, ``does not hold`` or ``untested``; ``tested together`` in old
    dictionaries."""


@dataclass(frozen=True)
class EmbeddingName:
    """A name by embedding: a token whose embedding is near to the decoder row."""

    token_id: int
    text: str
    cosine: float


@dataclass(frozen=True)
class FeatureNames:
    """The names of a feature, and what is known of them."""

    feature: int
    relation: str
    """Whether it should fire ``at`` its layer names or just ``before`` them."""
    layer: tuple[LayerName, ...]
    """Tested ones first, each in the order of what they add."""
    embedding: tuple[EmbeddingName, ...]
    """Nearest first."""
    hold: float
    """Share of its activation on held-out rows that all its layer names hold."""
    verdict: str
    """Of the first layer name: ``holds``, ``in part`` or ``does not hold``; ``untested`` if no name
    is. Of an old dictionary's names together: ``holds``, ``no evidence`` or ``contradicted``."""
    verdict_together: str
    """Of its layer names tested as if they were one, in the same words."""
    fire_rate: float
    """Share of rows on which it fires."""

    @property
    def tested(self) -> tuple[LayerName, ...]:
        """The layer names that are tested."""
        return tuple(name for name in self.layer if name.verdict != VERDICTS[UNTESTED])

    @property
    def first(self) -> LayerName | None:
        """The layer name that may stand for the feature: the first that is tested."""
        return next(iter(self.tested), None)

    def layer_text(self, top: int, start: int = 0) -> str:
        """Tested layer names from ``start`` up to ``top``, each with the share that it holds."""
        return "  ".join(f"{name.text} {name.hold:.0%}" for name in self.tested[start:top])

    def __str__(self) -> str:
        if self.first is None:
            return f"feature {self.feature} has no tested name"
        fires = f"feature {self.feature} fires {self.relation} {self.layer_text(5)}"
        return f"{fires}: {self.hold:.0%} held, {self.first.text} {self.verdict}"


@dataclass(frozen=True)
class Match:
    """A feature with a name that a search was for."""

    feature: int
    kind: Literal["layer", "embedding"]
    """Which kind of name it is."""
    relation: str
    """Of a layer name: ``at`` or ``before``; of the other kind: ``near``."""
    text: str
    value: float
    """Of a layer name: the share that it holds; of the other kind: its cosine."""
    verdict: str
    """On the layer name; with a name by embedding, on the feature's first layer name."""

    def __str__(self) -> str:
        value = f"{self.value:.0%}" if self.kind == "layer" else f"{self.value:.2f}"
        return f"feature {self.feature}: {self.relation} {self.text} {value} ({self.verdict})"


@dataclass(frozen=True)
class ActiveFeature:
    """A feature that fires on a row."""

    activation: float
    contribution: float
    """z_i |W_dec[i]|, the length of what it adds to x_hat."""
    names: FeatureNames

    def __str__(self) -> str:
        return f"{self.activation:.2f}  {self.names}"


def names(dictionary: "Dictionary", feature: int) -> FeatureNames:
    """See :meth:`Dictionary.names`."""
    if not 0 <= feature < dictionary.d_sae:
        raise UserError(f"there is no feature {feature}; expected 0 to {dictionary.d_sae - 1}")
    near = zip(dictionary.token_ids[feature], dictionary.cosines[feature], strict=True)
    text = dictionary.tokens
    words = VERDICTS_TOGETHER if dictionary.tested_together else VERDICTS
    ids = dictionary.layer_token_ids[feature]
    return FeatureNames(
        feature=int(feature),
        relation=RELATIONS[dictionary.layer_relation[feature]],
        layer=tuple(
            _layer_name(dictionary, feature, column)
            for column in np.flatnonzero(ids != NO_NAME).tolist()
        ),
        embedding=tuple(
            EmbeddingName(int(token), text[int(token)][1], float(c)) for token, c in near
        ),
        hold=float(dictionary.hold[feature]),
        verdict=words[int(dictionary.verdict[feature])],
        verdict_together=words[int(dictionary.verdict_together[feature])],
        fire_rate=float(dictionary.fire_rate[feature]),
    )


def _layer_name(dictionary: "Dictionary", feature: int, column: int) -> LayerName:
    token, rows, text_rows = (
        int(getattr(dictionary, name)[feature, column])
        for name in ("layer_token_ids", "layer_rows", "layer_text_rows")
    )
    expected, hold, lift = (
        float(getattr(dictionary, name)[feature, column])
        for name in ("layer_expected", "layer_hold", "layer_lift")
    )
    head = token, dictionary.tokens[token][1], expected, hold, lift, rows
    if dictionary.tested_together:
        return LayerName(*head, None, None, None, TOGETHER)
    precision = rows / max(text_rows, 1)
    recall = rows / max(int(dictionary.fired_rows[feature]), 1)
    verdict = VERDICTS[int(dictionary.layer_verdict[feature, column])]
    return LayerName(*head, text_rows, precision, recall, verdict)


def search(dictionary: "Dictionary", text: str, limit: int) -> list[Match]:
    """See :meth:`Dictionary.search`."""
    wanted = _plain(text)
    if not wanted:
        raise UserError("the text to search for is empty; expected a word or a part of one")
    plain = {token: _plain(display) for token, (_, display) in dictionary.tokens.items()}
    hits = [token for token, form in plain.items() if wanted in form]
    exact = [token for token in hits if plain[token] == wanted]
    matches: dict[int, Match] = {}
    for kind, feature, column in _hits(dictionary, hits, exact):
        if len(matches) == limit:
            break
        if feature not in matches:
            matches[feature] = _match(dictionary, kind, feature, column)
    return list(matches.values())


def explain(dictionary: "Dictionary", row: np.ndarray, top: int) -> list[ActiveFeature]:
    """See :meth:`Dictionary.explain`."""
    row = np.asarray(row, np.float32)
    if row.shape != (dictionary.d_in,):
        raise UserError(f"the row has shape {row.shape}; expected [{dictionary.d_in}]")
    z = dictionary.encode(row)
    lengths = z * np.linalg.norm(dictionary.W_dec, axis=1)
    best = [int(i) for i in np.argsort(-lengths, kind="stable")[:top] if z[i] > 0]
    return [ActiveFeature(float(z[i]), float(lengths[i]), names(dictionary, i)) for i in best]


def _hits(
    dictionary: "Dictionary", hits: list[int], exact: list[int]
) -> list[tuple[int, int, int]]:
    """(kind, feature, column) of every name among ``hits``, as :meth:`Dictionary.search` orders."""
    kinds = [
        (dictionary.layer_token_ids, dictionary.layer_hold),
        (dictionary.token_ids, dictionary.cosines),
    ]
    parts = []
    for kind, (ids, values) in enumerate(kinds):
        feature, column = np.nonzero(np.isin(ids, hits))
        inexact = ~np.isin(ids[feature, column], exact)
        verdict = dictionary.verdict[feature]
        if kind == 0 and not dictionary.tested_together:
            verdict = dictionary.layer_verdict[feature, column]
        unheld = verdict != HOLDS
        keys = (inexact, np.full(len(feature), kind), unheld, -values[feature, column], feature)
        parts.append(np.stack([key.astype(np.float64) for key in (*keys, column)]))
    table = np.concatenate(parts, axis=1)
    ordered = table[:, np.lexsort(table[::-1])].astype(np.int64)
    return [(kind, feature, column) for _, kind, _, _, feature, column in ordered.T.tolist()]


def _match(dictionary: "Dictionary", kind: int, feature: int, column: int) -> Match:
    known = names(dictionary, feature)
    if kind == 0:
        layer = known.layer[column]
        verdict = known.verdict if dictionary.tested_together else layer.verdict
        return Match(feature, "layer", known.relation, layer.text, layer.hold, verdict)
    near = known.embedding[column]
    return Match(feature, "embedding", "near", near.text, near.cosine, known.verdict)


def _plain(text: str) -> str:
    """``text`` as it is compared: without the spaces at its ends, in lower case."""
    return text.replace("␣", " ").strip().casefold()
