"""The table that a user reads: its order, its verdicts, and what it says beside them."""

import numpy as np
import pytest
from dictionary_fixtures import F, M, dictionary

from vasae_jax.dictionary.card import SORTS, name_table
from vasae_jax.dictionary.claims import VERDICTS


def rows(table):
    """The features of a table's lines, in order."""
    return [int(line.split()[0]) for line in table.split("\n\n")[0].splitlines()[1:]]


def twin(found, sort):
    """All features in the order of ``sort``, one key at a time."""
    if sort == "feature":
        return list(range(F))
    by = {"hold": found.hold, "fire_rate": found.fire_rate, "cosine": found.cosines[:, 0]}[sort]
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
    line = lines[1 + 7]
    assert line.split()[:3] == ["7", f"{found.fire_rate[7]:.3%}", f"{found.hold[7]:.0%}"]
    assert "holds" in line and "before" in line
    for place in range(M):
        token, share = found.layer_token_ids[7, place], found.layer_hold[7, place]
        said = f"{found.tokens[int(token)][1]} {share:.0%}"
        assert (said in line) == (place < 2)
    name, cosine = found.tokens[int(found.token_ids[7, 0])][1], found.cosines[7, 0]
    assert line.endswith(f"{name} {cosine:.2f}")
    assert lines[1].split()[:2] == ["0", "never"]


def test_the_end_says_over_which_rows_and_what_names_claim():
    said = name_table(dictionary(), features=5)
    assert "Fires: over the 1000 rows. Holds: over the 900 rows." in said
    whole = said.replace("\n", " ")
    assert "minus their mean" in whole and "not one-to-one" in whole
    assert "It says when a feature fires: not why" in whole
