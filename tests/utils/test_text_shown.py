"""Text of others as it is shown: nothing hides, nothing is markup, nothing is a formula."""

import csv
import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vasae_jax.utils.shown import MARKUP, csv_text, markdown, shown

ANY = st.text(st.characters())  # lone surrogates among them
ODD = {
    "a\nb": "a\\x0ab",
    "\x1b[2J": "\\x1b[2J",
    "\u202eabc\u2066": "\\u202eabc\\u2066",
    "\ud800": "\\ud800",
    "odd\udcff": "odd\\xff",
    "a\u2028b": "a\\u2028b",
    "\U000e0041": "\\U000e0041",
    "a\xa0b\u3000": "a\xa0b\u3000",
    "שלום é 漢字": "שלום é 漢字",
}


@pytest.mark.fault
@pytest.mark.parametrize("text", ODD)
def test_what_hides_becomes_an_escape(text):
    assert shown(text) == ODD[text]


@given(ANY)
def test_whatever_it_is_it_is_one_line_that_can_be_written_and_stays_the_same(text):
    line = shown(text)
    line.encode()
    assert not {unicodedata.category(c) for c in line} & {"Cc", "Cf", "Cs", "Zl", "Zp", "Cn"}
    assert shown(line) == line


@given(ANY)
def test_markdown_has_no_character_of_markup_that_is_not_escaped(text):
    rest = markdown(text)
    for character in MARKUP:
        rest = rest.replace(f"\\{character}", "")
    assert not set(rest) & MARKUP - {"\\"} and "www." not in rest


@pytest.mark.fault
@pytest.mark.parametrize("cell", ["=1+1", "+cmd|'/c calc'!A0", "-x", "@sum", " =1", "\uff1d1"])
def test_a_formula_in_csv_is_text(cell):
    [[found, rest]] = csv.reader(io.StringIO(csv_text([[cell, "a,b"]])))
    assert found == f"'{cell}" and rest == "a,b"


def test_numbers_in_csv_stay_numbers_and_rows_stay_rows():
    rows = [["a\nb", "-1.5", -1.5, None, "-inf"], ['"', "\ud800", "+3", 0, ""]]
    found = list(csv.reader(io.StringIO(csv_text(rows))))
    assert found == [["a\\x0ab", "-1.5", "-1.5", "", "-inf"], ['"', "\\ud800", "+3", "0", ""]]
