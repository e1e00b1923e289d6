"""Metrics of an SAE over the rows of a split, from sums in float64.

Where a share is over features that fire and none fires, it is 0: a dictionary of dead
features has earned nothing, however well its directions are aligned.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vasae_jax.dictionary.claims import BUCKETS, bucket_names, bucket_of
from vasae_jax.utils.errors import UserError

ALIGNED = BUCKETS[0][1]
"""A feature is aligned if its nearest cosine is at least this."""

DENSITY_EDGES = tuple(-6.0 + 0.5 * i for i in range(13))
"""Edges of the histogram of log10(fire rate); the first bin also takes all lower rates."""


class Sums:
    """Sums over one population of rows, added batch by batch.

    Means and squared distances are merged pairwise (Chan, Golub and LeVeque 1983), so that
    rows far from the origin lose no digits.
    """

    def __init__(self, d_in: int, d_sae: int) -> None:
        self.rows = 0
        self.mean = np.zeros(d_in)
        self.spread = 0.0
        """Sum of |x - mean|^2."""
        self.error = 0.0
        """Sum of |x - x_hat|^2."""
        self.token_error: float | None = None
        """Sum of |x - the mean row of its token|^2; None where token means are not known."""
        self.fired = np.zeros(d_sae, np.int64)
        """Rows on which each feature fired."""
        self.activation = np.zeros(d_sae)
        """Sum of each feature's activation."""

    def add_rows(self, rows: int, mean: np.ndarray, spread: float, error: float) -> None:
        """Add ``rows`` rows with this mean [d_in], sum of |x - mean|^2, sum of |x - x_hat|^2."""
        if rows == 0:
            return
        total = self.rows + rows
        shift = mean.astype(np.float64) - self.mean
        self.spread += float(spread) + float(shift @ shift) * self.rows * rows / total
        self.mean += shift * (rows / total)
        self.error += float(error)
        self.rows = total

    def add_token_error(self, token_error: float) -> None:
        """Add the sum of |x - the mean row of its token|^2 over some rows."""
        self.token_error = (self.token_error or 0.0) + token_error

    def add_active(self, values: np.ndarray, ids: np.ndarray) -> None:
        """Add rows' active features: ``values`` [n, k], 0 where fewer than k fire; ``ids``."""
        values, ids = values.reshape(-1), ids.reshape(-1)
        self.fired += np.bincount(ids[values > 0], minlength=self.fired.size)
        weights = values.astype(np.float64)
        self.activation += np.bincount(ids, weights, minlength=self.activation.size)


class TokenTable(NamedTuple):
    """A lookup table: for each row of a split, the mean row of its token."""

    token: np.ndarray
    """int32 [rows of the split], the token of each row"""
    rows: np.ndarray
    """float32 [V, d], each token's mean row less ``mean``"""
    mean: np.ndarray
    """float32 [d]"""

    def errors(self, start: int, x: np.ndarray) -> np.ndarray:
        """|x - the mean row of its token|^2 of the rows from ``start`` on; float32 [n].

        ``x`` [n, d] may go on past the split's end, with rows that do not count.
        """
        token = self.token[start : start + len(x)]
        left = x.astype(np.float32) - self.mean
        left[: len(token)] -= self.rows[token]
        errors: np.ndarray = np.einsum("nd,nd->n", left, left)
        return errors


@dataclass(frozen=True)
class NearestAnchors:
    """The nearest anchor of every feature.

    Attributes:
        anchor: what the anchors are, in words (such as "input embeddings").
        ids: int [F], the nearest token.
        cosines: float [F], its cosine s_i.
        vocab_size: V, tokens that could be nearest.
    """

    anchor: str
    ids: np.ndarray
    cosines: np.ndarray
    vocab_size: int


@dataclass(frozen=True)
class Alignment:
    """How near features are to tokens. The first two are the ones to quote."""

    anchor: str
    """The anchors, in words."""
    firing_aligned: float
    """Share of the features that fire with s_i >= 0.8."""
    mass_aligned: float
    """Share of sum over rows and features of z_i * |W_dec[i]| carried by aligned features."""
    coverage: float
    """Distinct nearest tokens of aligned firing features, over V."""
    firing_cosine: float
    """Mean s_i of the features that fire."""
    dictionary_aligned: float
    """Share of all features, dead ones too, with s_i >= 0.8."""
    dictionary_cosine: float
    """Mean s_i of all features."""
    firing_buckets: dict[str, int]
    """Features that fire, by bucket: strong >= 0.8, medium >= 0.5, weak >= 0.3, none."""
    dictionary_buckets: dict[str, int]
    """All features, by bucket."""


@dataclass(frozen=True)
class Metrics:
    """The metrics over one population of rows."""

    rows: int
    """Rows measured."""
    variance_explained: float
    """1 - fvu."""
    fvu: float
    """sum |x - x_hat|^2 / sum |x - mean|^2, mean over these same rows."""
    variance_explained_within_tokens: float | None
    """1 - sum |x - x_hat|^2 / sum |x - m|^2, m the mean of the training rows at the row's token."""
    l0: float
    """Mean number of features that fire on a row."""
    dead: int
    """Features that fired on none of the rows."""
    dead_fraction: float
    """dead over the number of features."""
    density: dict[str, list[Any]]
    """Histogram of log10(fire rate) of the features that fire: "log10_edges" and "features"."""
    alignment: tuple[Alignment, ...]
    """One for each kind of anchor, the run's own first."""
    fire_rate: np.ndarray = field(repr=False, compare=False)
    """float64 [F], share of the rows on which each feature fires."""

    def to_json(self) -> dict[str, Any]:
        """Everything but ``fire_rate``."""
        value = {**vars(self), "alignment": [vars(alignment) for alignment in self.alignment]}
        del value["fire_rate"]
        return value


def compute_metrics(
    sums: Sums, decoder_norms: np.ndarray, nearest: tuple[NearestAnchors, ...]
) -> Metrics:
    """The metrics of one population.

    Args:
        sums: over the population's rows.
        decoder_norms: [F], |W_dec[i]|.
        nearest: the features' nearest anchors, the run's own kind first.

    Raises:
        UserError: there are no rows, they are all equal, or the error is not finite.
    """
    if sums.rows == 0:
        raise UserError("no rows are left to evaluate; expected at least two unmasked rows")
    if sums.spread <= 0:
        raise UserError(f"all {sums.rows} rows are equal; expected rows that differ")
    if not np.isfinite(sums.error):
        raise UserError("the reconstruction is not finite; expected finite parameters")
    fvu = sums.error / sums.spread
    dead = int(np.sum(sums.fired == 0))
    mass = sums.activation * decoder_norms.astype(np.float64)
    return Metrics(
        rows=sums.rows,
        variance_explained=1 - fvu,
        fvu=fvu,
        variance_explained_within_tokens=_within_tokens(sums),
        l0=float(sums.fired.sum() / sums.rows),
        dead=dead,
        dead_fraction=dead / sums.fired.size,
        density=density(sums.fired, sums.rows),
        alignment=tuple(alignment(anchors, sums.fired > 0, mass) for anchors in nearest),
        fire_rate=sums.fired / sums.rows,
    )


def _within_tokens(sums: Sums) -> float | None:
    """Variance explained of what token means leave; None where they leave nothing."""
    return 1 - sums.error / sums.token_error if sums.token_error else None


def alignment(nearest: NearestAnchors, fires: np.ndarray, mass: np.ndarray) -> Alignment:
    """Alignment of the features; ``fires`` bool [F], ``mass`` [F] sum over rows of z*|W_dec|."""
    cosines = nearest.cosines.astype(np.float64)
    aligned = bucket_of(nearest.cosines) == 0
    tokens = np.unique(nearest.ids[aligned & fires])
    return Alignment(
        anchor=nearest.anchor,
        firing_aligned=_share(aligned, fires),
        mass_aligned=_share(aligned, mass),
        coverage=tokens.size / nearest.vocab_size,
        firing_cosine=_share(cosines, fires),
        dictionary_aligned=_share(aligned, np.ones_like(mass)),
        dictionary_cosine=_share(cosines, np.ones_like(mass)),
        firing_buckets=buckets(nearest.cosines[fires]),
        dictionary_buckets=buckets(nearest.cosines),
    )


def buckets(cosines: np.ndarray) -> dict[str, int]:
    """How many of ``cosines`` [n] lie in each bucket, best bucket first."""
    counts = np.bincount(bucket_of(cosines), minlength=len(BUCKETS) + 1)
    return dict(zip(bucket_names(), counts.tolist(), strict=True))


def density(fired: np.ndarray, rows: int) -> dict[str, list[Any]]:
    """Histogram of log10(fire rate) over the features that fire at all; ``fired`` [F] times."""
    rates = np.log10(fired[fired > 0] / rows)
    counts, _ = np.histogram(np.clip(rates, DENSITY_EDGES[0], DENSITY_EDGES[-1]), DENSITY_EDGES)
    return {"log10_edges": list(DENSITY_EDGES), "features": counts.tolist()}


def _share(value: np.ndarray, weight: np.ndarray) -> float:
    """Mean of ``value`` by ``weight``, 0 where there is no weight."""
    weight = weight.astype(np.float64)
    total = float(weight.sum())
    return float(value.astype(np.float64) @ weight) / total if total > 0 else 0.0


def flatten_numbers(value: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a JSON object by dotted name, such as ``names.layer.all.hold10``.

    Objects of a list go by their ``group`` or ``anchor``, or else by their index.
    """
    flat: dict[str, float] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            flat |= flatten_numbers(item, f"{name}.")
        elif isinstance(item, list | tuple):
            for index, each in enumerate(item):
                if not isinstance(each, Mapping):
                    continue
                title = str(each.get("group", each.get("anchor", index))).replace(" ", "_")
                flat |= flatten_numbers(each, f"{name}.{title}.")
        elif isinstance(item, int | float) and not isinstance(item, bool):
            flat[name] = item
    return flat
