"""Looking into a dictionary: a feature's names, the features of a name, the features of a row."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from vasae_jax.dictionary.claims import HOLDS, RELATIONS, VERDICTS
from vasae_jax.utils.errors import UserError

if TYPE_CHECKING:
    from vasae_jax.dictionary.dictionary import Dictionary


@dataclass(frozen=True)
class LayerName:
    """A layer name: a token at or before which the feature should fire."""

    token_id: int
    text: str
    """Its printable form, a space as ␣."""
    expected: float
    """Share of the feature's activation expected at (or before) the token."""
    hold: float
    """Share of its activation at (or before) the token on held-out rows."""
    lift: float
    """``hold`` divided by the share of held-out rows at (or before) the token."""
    rows: int
    """Held-out rows at (or before) the token on which the feature fires."""


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
    """Best first."""
    embedding: tuple[EmbeddingName, ...]
    """Nearest first."""
    hold: float
    """Share of its activation on held-out rows that all its layer names hold."""
    verdict: str
    """``holds``, ``no evidence`` or ``contradicted``."""
    fire_rate: float
    """Share of rows on which it fires."""

    def layer_text(self, top: int) -> str:
        """Up to ``top`` layer names, each with the share that it holds."""
        return "  ".join(f"{name.text} {name.hold:.0%}" for name in self.layer[:top])

    def __str__(self) -> str:
        fires = f"feature {self.feature} fires {self.relation} {self.layer_text(5)}"
        return f"{fires}: {self.hold:.0%} held, {self.verdict}"


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
    """On the feature's layer names."""

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
    columns = ("layer_token_ids", "layer_expected", "layer_hold", "layer_lift", "layer_rows")
    layer = zip(*(getattr(dictionary, name)[feature].tolist() for name in columns), strict=True)
    near = zip(dictionary.token_ids[feature], dictionary.cosines[feature], strict=True)
    text = dictionary.tokens
    return FeatureNames(
        feature=int(feature),
        relation=RELATIONS[dictionary.layer_relation[feature]],
        layer=tuple(LayerName(token, text[token][1], *values) for token, *values in layer),
        embedding=tuple(
            EmbeddingName(int(token), text[int(token)][1], float(c)) for token, c in near
        ),
        hold=float(dictionary.hold[feature]),
        verdict=VERDICTS[int(dictionary.verdict[feature])],
        fire_rate=float(dictionary.fire_rate[feature]),
    )


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
        unheld = dictionary.verdict[feature] != HOLDS
        keys = (inexact, np.full(len(feature), kind), unheld, -values[feature, column], feature)
        parts.append(np.stack([key.astype(np.float64) for key in (*keys, column)]))
    table = np.concatenate(parts, axis=1)
    ordered = table[:, np.lexsort(table[::-1])].astype(np.int64)
    return [(kind, feature, column) for _, kind, _, _, feature, column in ordered.T.tolist()]


def _match(dictionary: "Dictionary", kind: int, feature: int, column: int) -> Match:
    known = names(dictionary, feature)
    if kind == 0:
        layer = known.layer[column]
        return Match(feature, "layer", known.relation, layer.text, layer.hold, known.verdict)
    near = known.embedding[column]
    return Match(feature, "embedding", "near", near.text, near.cosine, known.verdict)


def _plain(text: str) -> str:
    """``text`` as it is compared: without the spaces at its ends, in lower case."""
    return text.replace("␣", " ").strip().casefold()
