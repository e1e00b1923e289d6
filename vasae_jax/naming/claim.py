"""What a name claims, and the buckets that say how near it is."""

import numpy as np

CLAIM = (
    "A name is the token whose embedding is nearest to a learned direction by cosine: "
    "not a full explanation of the feature, not evidence that the feature causes the token, "
    "not a promise about every context, and not one-to-one."
)
"""The claim boundary, kept wherever names are shown."""

BUCKETS = (("strong", 0.8), ("medium", 0.5), ("weak", 0.3))
"""Alignment buckets: name and the least cosine in it, best first. Below all of them: none."""


def bucket_of(cosines: np.ndarray) -> np.ndarray:
    """The bucket of each cosine as its index in BUCKETS; ``len(BUCKETS)`` is none. int [F]."""
    borders = np.array([least for _, least in BUCKETS])
    index: np.ndarray = np.sum(np.asarray(cosines)[:, None] < borders[None, :], axis=1)
    return index


def bucket_names() -> tuple[str, ...]:
    """Names of the buckets, by index: strong, medium, weak, none."""
    return (*(name for name, _ in BUCKETS), "none")
