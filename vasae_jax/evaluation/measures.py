"""Which of two values of a measure is the better one, for every measure by its dotted name.

The names are those of ``vasae eval``'s JSON, as :func:`flatten_numbers` gives them, and of the
columns of a sweep's table.
"""

from fnmatch import fnmatchcase
from typing import Literal

Better = Literal["more", "less", "neither"]
"""Which value is the better one. Of counts, baselines and the model's own figures it is neither."""

MEASURES: dict[Better, tuple[str, ...]] = {
    "more": (
        "*.variance_explained",
        "*.variance_explained_within_tokens",
        # alignment
        "*.firing_aligned",
        "*.mass_aligned",
        "*.coverage",
        "*.firing_cosine",
        "*.dictionary_aligned",
        "*.dictionary_cosine",
        # names
        "*.hold1",
        "*.hold10",
        "*.hold10_dead_as_0",
        "*.mass10",
        "*.ceiling1",
        "*.ceiling10",
        "*.ceiling_mass10",
        "*.holds",
        "*.holds_together",
        "*.precision",
        "*.recall",
        "*.f1",
        "*.auroc",
        "*.distinct_first",
        "*.named",
        "*.mean_max_cosine",
        # the patched model
        "lm.patched.*.sae.ce_recovered",
        "lm.patched.*.sae.ce_recovered_over_mean",
        "lm.logit_lens.*.sae",
    ),
    "less": (
        "seconds",
        "*.fvu",
        "*.dead",
        "*.dead_fraction",
        "*.untested",
        "*.first_holds_nothing",
        "*.shuffled",
        "*.shuffled1",
        "*.shuffled10",
        "lm.patched.*.sae.ce",
        "lm.patched.*.sae.kl",
    ),
    "neither": (
        "features",
        "*.features",
        "*.candidates",
        "*.rows",
        "*.names",
        "*.in_part",
        "*.name_count",
        "*.documents",
        "*.l0",
        "*.firing_buckets.*",
        "*.dictionary_buckets.*",
        "lm.layer",
        "lm.windows",
        "lm.positions",
        "lm.masked_rows",
        "lm.ce",
        "lm.patched.*.identity.*",
        "lm.patched.*.mean.*",
        "lm.patched.*.zero.*",
        "lm.logit_lens.*.mean",
    ),
}
"""Every measure, as patterns of names; ``*`` stands for any part."""


def better(name: str) -> Better | None:
    """Which value of the measure ``name`` is the better one; None for what is no measure."""
    return next(
        (way for way, names in MEASURES.items() if any(fnmatchcase(name, one) for one in names)),
        None,
    )
