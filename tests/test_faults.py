"""docs/dev/faults.md names tests that exist and carry the marker ``fault``."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
NAMED = re.findall(
    r"`([\w/]+\.py)::(\w+)`",
    (TESTS.parent / "docs" / "dev" / "faults.md").read_text(encoding="utf-8"),
)
MARK = "pytest.mark.fault"


def marked(file):
    """The names of a file's tests that carry the marker."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    whole = any(
        isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "pytestmark"
        and MARK in ast.unparse(node.value)
        for node in tree.body
    )
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {f.name for f in functions if whole or MARK in map(ast.unparse, f.decorator_list)}


def test_every_test_named_exists_and_is_marked():
    assert len(NAMED) > 20
    for file, name in NAMED:
        assert name in marked(TESTS / file), f"{file}::{name}"


def test_every_row_names_a_test():
    table = (
        (TESTS.parent / "docs" / "dev" / "faults.md")
        .read_text(encoding="utf-8")
        .split("|---|---|---|---|\n")[1]
    )
    for row in table.split("\n\n")[0].splitlines():
        assert row.count(" | ") == 3
        assert "`" in row.rpartition(" | ")[2], row
