"""The eight sentences of the published case studies.

The sentences, their topics and their grouping are those of the paper's own page,
https://karry-z.github.io/VASAE/ (Kairui Zhang; the groups are the ones given for GPT-2-small).
They are quoted so that heatmaps can be laid beside the published ones.
"""

from dataclasses import dataclass

from vasae_jax.system.errors import UserError

KINDS = ("clear", "ambiguous", "boundary")
"""How plainly names were found to speak of the sentence, plainest first."""


@dataclass(frozen=True)
class Case:
    """A sentence to draw."""

    key: str
    text: str
    kind: str = ""
    """One of KINDS; empty for a sentence of one's own."""
    topic: str = ""


PUBLISHED = (
    Case(
        "names_townsend",
        "Pete Townsend, the legendary guitarist of The Who, walked down the street",
        "clear",
        "names, music",
    ),
    Case(
        "names_fey",
        "Tina Fey hosted the awards ceremony alongside her longtime collaborator",
        "clear",
        "names, awards",
    ),
    Case(
        "names_nicole",
        "Nicole Kidman accepted the award and thanked her family and friends",
        "clear",
        "names, events",
    ),
    Case(
        "place_street",
        "The cafe is located on Baker Street, just around the corner from the avenue",
        "clear",
        "location",
    ),
    Case(
        "self_intro",
        "my name is Bryan, I am a huge fan of yours. I was always very impressed with you",
        "clear",
        "template",
    ),
    Case(
        "morph_ible",
        "The proposal was perfectly feasible, entirely sensible, and quite reasonable",
        "ambiguous",
        "morphology",
    ),
    Case(
        "factual_einstein",
        "Albert Einstein was born in the year 1879 in the city of Ulm in the country of",
        "ambiguous",
        "facts",
    ),
    Case(
        "ioi_simple",
        "When John and Mary went to the store, John gave a drink to",
        "boundary",
        "relation",
    ),
)
"""In the order of KINDS."""


def case_of(key: str) -> Case:
    """The published case named ``key``; UserError if there is none."""
    for case in PUBLISHED:
        if case.key == key:
            return case
    known = ", ".join(case.key for case in PUBLISHED)
    raise UserError(f"case {key} is not known; expected one of {known}")
