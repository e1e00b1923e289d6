"""The table that a user reads: its order, its verdicts, and what it says beside them."""

import dataclasses

import numpy as np
import pytest
from dictionary_fixtures import F, M, dictionary

from vasae_jax.dictionary.card import SORTS, model_card, name_table
from vasae_jax.dictionary.claims import VERDICTS


def rows(table):
    """The features of a table's lines, in order."""
    return [int(line.split()[0]) for line in table.split("\n\n")[0].splitlines()[1:]]


def twin(found, sort):
    """All features in the order of ``sort``, one key at a time."""
    if sort == "feature":
        return list(range(F))
    first = np.where(found.layer_verdict[:, 0] == 0, 0, found.layer_hold[:, 0])
    by = {"hold": first, "fire_rate": found.fire_rate, "cosine": found.cosines[:, 0]}[sort]
    order = sorted(range(F), key=lambda f: -by[f])
    order.sort(key=lambda f: found.fire_rate[f] <= 0)
    order.sort(key=lambda f: found.verdict[f] != 1)
    return order


@pytest.mark.parametrize("sort", SORTS)
def test_names_that_hold_come_first_and_then_the_order_asked_for(sort):
    found = dictionary()
    table = name_table(found, features=F, sort=sort)
    assert rows(table) == twin(found, sort)
    assert rows(name_table(found, features=3, sort=sort)) == twin(found, sort)[:3]
    if sort != "feature":
        holds = (found.verdict == 1)[rows(table)]
        assert not np.any(~holds[:-1] & holds[1:])
    assert rows(name_table(found, features=5)) == twin(found, "hold")[:5]


@pytest.mark.parametrize(("number", "verdict"), VERDICTS.items())
def test_only_features_of_a_verdict(number, verdict):
    found = dictionary()
    table = name_table(found, features=F, verdict=verdict)
    assert sorted(rows(table)) == np.flatnonzero(found.verdict == number).tolist()
    assert f"{len(rows(table))} of {F} features." in table
    assert len(rows(name_table(found, features=2, verdict=verdict))) == 2


def test_a_line_says_what_is_known_of_a_feature():
    found = dictionary()
    lines = name_table(found, top=2, features=F, sort="feature").splitlines()
    line = lines[1 + 8]
    first = found.names(8).first
    assert line.split() == [
        "8",
        f"{found.fire_rate[8]:.3%}",
        "at",
        first.text,
        f"{first.hold:.0%}",
        f"{first.precision:.0%}",
        "holds",
        f"{found.hold[8]:.0%}",
        *found.names(8).layer_text(2, start=1).split(),
        *line.split()[-2:],
    ]
    name, cosine = found.tokens[int(found.token_ids[8, 0])][1], found.cosines[8, 0]
    assert line.endswith(f"{name} {cosine:.2f}")
    assert lines[1].split()[:2] == ["0", "never"]


def test_a_feature_without_a_tested_name_says_so():
    found = dictionary()
    untested = np.flatnonzero(found.verdict == 0)
    lines = name_table(found, features=F, sort="feature").splitlines()
    for feature in untested:
        names = found.names(feature)
        assert names.first is None and "no tested name" in str(names)
        assert "no tested name" in lines[1 + feature]
        assert not any(f"{name.text} {name.hold:.0%}" in lines[1 + feature] for name in names.layer)


def test_an_untested_name_is_not_shown_among_tested_ones():
    found = dictionary()
    verdict = found.layer_verdict.copy()
    verdict[8] = [1, 2, 0, 0]
    names = dataclasses.replace(found, layer_verdict=verdict).names(8)
    assert [name.verdict for name in names.layer] == ["holds", "in part", *["untested"] * 2]
    assert names.layer_text(M).count("%") == 2


@pytest.mark.parametrize(("documents", "warns"), [(9, True), (10, False)])
def test_few_documents_are_said(documents, warns):
    found = dictionary()
    meta = {**found.meta, "hold_documents": documents}
    found = dataclasses.replace(found, meta=meta)
    for text in (name_table(found), model_card(found)):
        assert (f"{documents} documents" in text) == warns


def test_the_end_says_over_which_rows_and_what_names_claim():
    said = name_table(dictionary(), features=5)
    assert "Fires: over the 1000 rows. Holds: over the 900 rows." in said
    whole = said.replace("\n", " ")
    assert "minus their mean" in whole and "not one-to-one" in whole
    assert "It says when a feature fires: not why" in whole
