"""Relations and verdicts in words, what names claim, and what to cite."""

import numpy as np

AT, BEFORE = 0, 1
"""Relations of a feature to its names: it fires at them, or on the row just before them."""
RELATIONS = ("at", "before")
"""Relations in words, by number."""
NO_NAME = -1
"""The token id after a feature's last name: features have as many names as pay."""
HOLDS, IN_PART, FAILS, UNTESTED = 1, 2, -1, 0
"""Verdicts on a name."""
VERDICTS = {HOLDS: "holds", IN_PART: "in part", FAILS: "does not hold", UNTESTED: "untested"}
"""Verdicts in words."""
VERDICTS_TOGETHER = {HOLDS: "holds", FAILS: "contradicted", UNTESTED: "no evidence"}
"""Those of dictionaries before version 5, which tested the names of a feature together."""

REFERENCE = (
    "Kairui Zhang, Ziwen Yu, Zahraa S. Abdallah and Martha Lewis. VASAE: Naming SAE Dictionary "
    "Directions with Vocabulary-Aligned Anchoring. 2026. arXiv:2606.27941."
)
BIBTEX = """@misc{zhang2026vasae,
  title         = {VASAE: Naming SAE Dictionary Directions with Vocabulary-Aligned Anchoring},
  author        = {Zhang, Kairui and Yu, Ziwen and Abdallah, Zahraa S. and Lewis, Martha},
  year          = {2026},
  eprint        = {2606.27941},
  archivePrefix = {arXiv}
}"""

CLAIM = (
    "A name is the token whose embedding is nearest to a learned direction by cosine: "
    "not a full explanation of the feature, not evidence that the feature causes the token, "
    "not a promise about every context, and not one-to-one."
)
"""What names by embedding claim and do not claim; shown wherever they are."""

LAYER_CLAIM = (
    "A layer name is the token at which, or just before which, a feature should fire: chosen by "
    "where it fires on training text, or by where its encoder points among the layer's mean rows "
    "of tokens. How much of its activation the name holds is counted on held-out text. It says "
    "when a feature fires: not why, not what it causes, not all that it responds to, and several "
    "features may share a name."
)
"""What layer names claim and do not claim; shown wherever they are."""

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
