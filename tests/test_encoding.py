"""Text is read and written as UTF-8 whatever the locale is: every call says so.

ruff's PLW1514 finds the calls whose object it knows to be a path; this finds all.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for room in ("vasae_jax", "tools", "tests", "configs")
    for path in (ROOT / room).rglob("*.py")
)


ENCODING = {"read_text": 0, "write_text": 1, "open": 3, "io.open": 3, "os.fdopen": 3}
"""Functions that read or write text, and the position of their argument ``encoding``."""


def silent_calls(text):
    """The lines of ``text`` that read or write text in the locale's encoding."""
    calls = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return [call.lineno for call in calls if is_silent(call)]


def is_silent(call):
    name = ast.unparse(call.func)
    if isinstance(call.func, ast.Attribute) and call.func.attr.endswith("_text"):
        name = call.func.attr
    if name not in ENCODING or len(call.args) > ENCODING[name]:
        return False
    modes = [word.value for word in call.keywords if word.arg == "mode"] + call.args[1:2]
    if "open" in name and any("b" in ast.unparse(mode) for mode in modes):
        return False
    return all(word.arg not in ("encoding", None) for word in call.keywords)


@pytest.mark.fault
def test_no_text_is_read_or_written_in_the_locales_encoding():
    silent = {
        str(path.relative_to(ROOT)): lines
        for path in FILES
        if (lines := silent_calls(path.read_text(encoding="utf-8")))
    }
    assert silent == {}


@pytest.mark.parametrize(
    "call",
    ["open(p{})", "open(p, name{})", "open(p, 'w'{})", "p.write_text(t{})", "os.fdopen(n, 'r'{})"],
)
def test_a_call_without_an_encoding_is_found(call):
    assert silent_calls(call.format("")) == [1]
    assert silent_calls(call.format(", encoding='utf-8'")) == []


def test_an_encoding_by_position_is_one():
    assert silent_calls("p.read_text('utf-8'); p.write_text(t, 'utf-8')") == []
    assert silent_calls("p.read_text()") == [1]


@pytest.mark.parametrize("call", ["open(p, 'rb')", "open(p, mode='wb')", "p.open('rb')", "f(p)"])
def test_other_calls_are_not(call):
    assert silent_calls(call) == []
