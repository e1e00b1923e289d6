"""A feature's layer names as a line of text, for tools that show or score explanations."""

from vasae_jax.dictionary.claims import HOLDS, IN_PART, VERDICTS
from vasae_jax.dictionary.lookup import FeatureNames, LayerName

BOUNDARY = (
    "Measured on held-out text. Says when it fires: not why, not what it causes, not all that it "
    "responds to."
)
"""What a label claims and does not claim; at the end of each that stands by itself."""
SHOWN = 3
"""Names in a label, at most."""


def claimed(names: FeatureNames) -> tuple[LayerName, ...]:
    """The layer names that held-out text bears out, wholly or in part; best first."""
    return tuple(n for n in names.layer if n.verdict in (VERDICTS[HOLDS], VERDICTS[IN_PART]))


def explanation(names: FeatureNames) -> str | None:
    """When the feature fires, for a reader who shall judge texts by it; None without a name.

    All names that hold, wholly or in part, and no figures: those are what the reader finds out.
    """
    tokens = claimed(names)
    if not tokens:
        return None
    place = "The token just before" if names.relation == "before" else "The token"
    return f"{place} {_any_of(tokens)}."


def label(names: FeatureNames, limit: int) -> str | None:
    """The feature's first names, each with its figures, and the claim's boundary.

    Args:
        names: of the feature.
        limit: characters that it may have; names are left out until it fits.

    Returns:
        None without a name that holds, or where not even one fits.
    """
    tokens = claimed(names)[:SHOWN]
    for count in range(len(tokens), 0, -1):
        known = ", ".join(f"{_quoted(token)} {_figures(token)}" for token in tokens[:count])
        text = f"{names.relation} {known}. {BOUNDARY}"
        if len(text) <= limit:
            return text
    return None


def short_label(names: FeatureNames) -> str | None:
    """The feature's relation and first names alone; None without one that holds."""
    tokens = claimed(names)[:SHOWN]
    return f"{names.relation} {_any_of(tokens)}" if tokens else None


def _any_of(tokens: tuple[LayerName, ...]) -> str:
    return " or ".join(map(_quoted, tokens))


def _quoted(token: LayerName) -> str:
    return f'"{token.text.replace("␣", " ")}"'


def _figures(token: LayerName) -> str:
    """What held-out text says of a name: its verdict and shares."""
    return (
        f"({token.verdict}: {token.hold:.0%} of its activation, "
        f"precision {token.precision or 0:.0%}, recall {token.recall or 0:.0%})"
    )
