"""Names as detectors: whether a row's token (or next token) tells that a feature fires on it.

A feature's names say that it fires on the rows they are at (or before), and on no others. Over the
observed rows of a split that is right or wrong, row by row.
"""

from dataclasses import dataclass

import numpy as np

from vasae_jax.dictionary.claims import UNTESTED
from vasae_jax.names.by_layer import LayerNames
from vasae_jax.names.evidence import Evidence

MIN_FIRINGS = 5
"""Rows on which a feature fires, at least, to count here."""


@dataclass(frozen=True)
class Detector:
    """How well names detect firing: means over features, each counting once."""

    precision: float
    """Of the rows with a name, those on which the feature fires; 0 where no row has a name."""
    recall: float
    """Of the rows on which the feature fires, those with a name."""
    f1: float
    """2 hits / (rows with a name + rows on which it fires), of each feature."""
    auroc: float
    """Area under the ROC curve of "has a name": (1 + recall - share of other rows named) / 2."""


@dataclass(frozen=True)
class Detection:
    """Names as detectors of firing, over features with MIN_FIRINGS firings or more."""

    features: int
    names: Detector
    """All names of a feature together."""
    first: Detector
    """The first name that is tested, which is the one that is shown."""
    name_count: float
    """Mean number of names."""
    untested: float
    """Share of the features of which no name is tested."""
    first_holds_nothing: float
    """Share of the features whose first tested name holds no activation at all."""
    distinct_first: float
    """Different first names (relation and token) over the features that have one."""


def detection(names: LayerNames, evidence: Evidence, rows: int) -> Detection:
    """Measure names, tested ones first, on ``rows`` rows that ``evidence`` was counted on."""
    counts = evidence.fired >= MIN_FIRINGS
    tested = evidence.name_verdict[:, 0] != UNTESTED
    shown = counts & tested
    first = np.stack([names.relation, names.ids[:, 0]], axis=1)[shown]
    columns = np.zeros(names.ids.shape, bool)
    columns[:, 0] = tested
    return Detection(
        features=int(counts.sum()),
        names=_detector(evidence, np.ones_like(columns), counts, rows),
        first=_detector(evidence, columns, counts, rows),
        name_count=_mean((names.ids >= 0).sum(axis=1), counts),
        untested=_mean(~tested, counts),
        first_holds_nothing=_mean(tested & (evidence.name_hold[:, 0] == 0), counts),
        distinct_first=len(np.unique(first, axis=0)) / max(len(first), 1),
    )


def _detector(evidence: Evidence, columns: np.ndarray, counts: np.ndarray, rows: int) -> Detector:
    """The detector of the names in ``columns``, bool [F, m], over the features that count."""
    hits = np.sum(evidence.name_rows * columns, axis=1, dtype=np.float64)
    named = np.sum(evidence.name_text_rows * columns, axis=1, dtype=np.float64)
    fired = evidence.fired.astype(np.float64)
    recall = hits / np.maximum(fired, 1)
    false_alarms = (named - hits) / np.maximum(rows - fired, 1)
    return Detector(
        precision=_mean(hits / np.maximum(named, 1), counts),
        recall=_mean(recall, counts),
        f1=_mean(2 * hits / np.maximum(named + fired, 1), counts),
        auroc=_mean((1 + recall - false_alarms) / 2, counts),
    )


def _mean(values: np.ndarray, chosen: np.ndarray) -> float:
    return float(np.mean(values[chosen], dtype=np.float64)) if chosen.any() else 0.0


def detection_table(found: Detection) -> str:
    """What names detect as a readable table: all names of a feature, and the first."""
    head = f"names as detectors of firing, {found.features:,} features with {MIN_FIRINGS}+ firings"
    lines = [(head, "all names", "first")]
    for title in ("F1", "precision", "recall", "AUROC"):
        every, first = (getattr(part, title.lower()) for part in (found.names, found.first))
        lines.append((f"  {title}", f"{every:.3f}", f"{first:.3f}"))
    lines += [
        ("  names of a feature", f"{found.name_count:.1f}", ""),
        ("  no name is tested", f"{found.untested:.1%}", ""),
        ("  first name holds nothing", "", f"{found.first_holds_nothing:.1%}"),
        ("  different first names a feature", "", f"{found.distinct_first:.2f}"),
    ]
    width = max(len(line[0]) for line in lines)
    return "\n".join(f"{a:<{width}}  {b:>9}  {c:>7}".rstrip() for a, b, c in lines)
