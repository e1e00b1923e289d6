"""The code in docs/dev/extend.md is the code that the tests here run."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "dev" / "extend.md").read_text(encoding="utf-8")
CODE = [path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*.py"))]
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[:40])
def test_a_block_is_part_of_a_file_here(block):
    assert any(block in code for code in CODE)


def test_each_walk_through_names_its_test():
    tests = {path.name for path in HERE.glob("test_extend_*.py")} - {Path(__file__).name}
    assert set(re.findall(r"tests/dev/(test_\w+\.py)", PAGE)) == tests
