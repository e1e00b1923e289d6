"""The alignment figure says what the dictionary holds, fits its page, and is reproducible."""

import dataclasses
import itertools

import numpy as np
import pytest
from dictionary_fixtures import PROVENANCE, dictionary
from matplotlib.text import Text

from vasae_jax.report.figures.alignment import _draw, alignment_figure
from vasae_jax.utils.errors import UserError


def shaped(cosines, fire_rate, model="test/tiny"):
    origin = {**PROVENANCE, "model": {"id": model}}
    return dataclasses.replace(
        dictionary(),
        cosines=np.asarray(cosines, np.float32)[:, None],
        fire_rate=np.asarray(fire_rate, np.float32),
        W_dec=np.zeros((len(cosines), 2), np.float32),
        meta={**dictionary().meta, "provenance": origin},
    )


CASES = {
    "mixed": shaped([0.95, 0.9, 0.6, 0.4, 0.1], [0.1, 0, 0.2, 0.3, 0]),
    "nothing fires": shaped([0.9, 0.9], [0, 0]),
    "negative and rounded past one": shaped([-0.4, np.float32(1.0000001)], [0.5, 0.5]),
    "large, long name": shaped(np.full(131072, 0.99), np.full(131072, 0.1), "a/" + "long-" * 40),
}


def texts(figure):
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def test_the_counts_are_those_of_the_dictionary():
    shown = [text.get_text() for text in texts(_draw(CASES["mixed"]))]
    assert "whole dictionary: 5 (40.0% strong)" in shown
    assert "features that fire: 3 (33.3% strong)" in shown
    assert {"strong\n1 of 2 fire", "medium\n1 of 1 fire", "none\n0 of 1 fire"} <= set(shown)
    assert "test/tiny, layer 3: alignment of 5 features" in shown
    assert any("not a full explanation" in " ".join(text.split()) for text in shown)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_texts_lie_on_the_page_and_not_on_each_other(case):
    figure = _draw(case)
    figure.draw_without_rendering()
    page = figure.bbox
    boxes = {text.get_text(): text.get_window_extent() for text in texts(figure)}
    for name, box in boxes.items():
        assert page.x0 <= box.x0 and box.x1 <= page.x1, name
        assert page.y0 <= box.y0 and box.y1 <= page.y1, name
    for (name, box), (other, second) in itertools.combinations(boxes.items(), 2):
        assert not box.overlaps(second), (name, other)


def test_the_same_dictionary_gives_the_same_file(tmp_path):
    first = alignment_figure(CASES["mixed"], tmp_path / "a.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert alignment_figure(CASES["mixed"], tmp_path / "b.png").read_bytes() == first


def test_an_existing_figure_is_kept_unless_asked(tmp_path):
    path = tmp_path / "figure.png"
    path.write_text("precious", encoding="utf-8")
    with pytest.raises(UserError, match="exists already"):
        alignment_figure(CASES["mixed"], path)
    assert path.read_text(encoding="utf-8") == "precious"
    alignment_figure(CASES["mixed"], path, overwrite=True)
