"""Write docs/dev/tree.md: every file of the package with the first sentence of its docstring.

Command:  python tools/tree.py           (--check: only compare, exit code 1 where it differs)
"""

import argparse
import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "dev" / "tree.md"
HEAD = """# The package, file by file

Each line is the first sentence of the file's docstring. `python tools/tree.py` writes this page.
"""


def first_sentence(file: Path) -> str:
    """The first sentence of a module's docstring, on one line."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split())
    return re.split(r"(?<=\.)\s", text, maxsplit=1)[0].rstrip(".")


def page() -> str:
    """The page as it should be."""
    package = ROOT / "vasae_jax"
    lines = [HEAD, "```text", "vasae_jax/"]
    for file in sorted(package.rglob("*.py"), key=lambda file: (file.parent, file.name)):
        folder, depth = file.parent.relative_to(package), len(file.relative_to(package).parts)
        name = file.name
        if name == "__init__.py" and folder.parts:
            name, depth = f"{folder.name}/", depth - 1
        lines.append(f"{'  ' * depth}{name:<{30 - 2 * depth}}{first_sentence(file)}".rstrip())
    return "\n".join([*lines, "```", ""])


def main() -> int:
    """Write the page, or compare it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    if parser.parse_args().check:
        return int(PAGE.read_text("utf-8") != page())
    PAGE.write_text(page(), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
