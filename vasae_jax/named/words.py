"""The words for what arrays hold as numbers: relations and verdicts."""

AT, BEFORE = 0, 1
"""Relations: the feature fires at its names, or at rows that they follow."""
RELATIONS = ("at", "before")
"""Relations in words, by number."""
HOLDS, NO_EVIDENCE, CONTRADICTED = 1, 0, -1
"""Verdicts."""
VERDICTS = {HOLDS: "holds", NO_EVIDENCE: "no evidence", CONTRADICTED: "contradicted"}
"""Verdicts in words."""
