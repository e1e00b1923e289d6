"""What the docs tell people to type is there: programs, arguments, settings, extras, files."""

import ast
import configparser
import importlib
import re

import pytest
from doc_marks import IN_CI, NOT_RUN, PYTHON_NOT_RUN, SMALL, mark, marked
from doc_pages import PAGES, ROOT, anchors, links, ours, typed
from doc_programs import check_arguments, options, settings

from vasae_jax.cli.main import VERBS

COMMANDS = typed("sh")
BLOCKS = typed("python")
PROSE = typed("prose")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
TOOLS = sorted(f"tools/{path.relative_to(ROOT / 'tools')}" for path in ROOT.glob("tools/**/*.py"))
FOREIGN = {"--no-deps"}
"""Options of other programs that sentences name."""
FILES = ("json", "jsonl", "parquet", "safetensors")
"""Endings of files, which settings never have."""
PARTS = ["cache import", "cache export", "sweep table", "sweep plot", "sweep status"]


def ids(found):
    return f"{found.page}: {found.text[:50]}"


@pytest.mark.parametrize("page", PAGES)
def test_a_command_is_run_or_marked(page):
    for command in COMMANDS:
        if command.page == page and not marked(command.text):
            known = command.text.startswith(("vasae ", "python tools/"))
            assert known, f"{command.text}: say in doc_marks.py why it is not run"


def test_no_mark_is_stale():
    marks = {marked(command.text) for command in COMMANDS}
    assert marks - {None} == IN_CI.keys() | NOT_RUN.keys()
    for words in IN_CI.values():
        assert words in CI
    run = [command.text for command in COMMANDS if not marked(command.text)]
    assert [key for key in SMALL if not any(text.startswith(key) for text in run)] == []
    assert {mark(PYTHON_NOT_RUN, block.text) for block in BLOCKS} - {None} == PYTHON_NOT_RUN.keys()


@pytest.mark.parametrize(
    "words",
    [words for command in COMMANDS for words in ours(command.text)],
    ids=" ".join,
)
def test_arguments_and_settings_are_there(words):
    check_arguments(words)


@pytest.mark.parametrize("page", PAGES)
def test_a_program_in_a_sentence_has_the_options(page):
    for words in (words for part in PROSE if part.page == page for words in ours(part.text)):
        given = {word.split("=")[0] for word in words if word.startswith("--")} - {"--help"}
        program = words[:2] if words[0] == "vasae" else words[:1]
        assert program[0] in TOOLS or not program[1:] or program[1] in (*VERBS, "--help"), words
        assert not given or given <= options(program), words


def test_an_option_in_a_sentence_is_one_of_some_program():
    programs = [["vasae", *verb.split()] for verb in (*VERBS, *PARTS)]
    programs += [
        [tool] for tool in TOOLS if "ArgumentParser" in (ROOT / tool).read_text(encoding="utf-8")
    ]
    known = set.union(settings(), *map(options, programs), options(["tools/extract_flax.py"]))
    asked = {re.split(r"[ =]", part.text)[0] for part in PROSE if part.text.startswith("--")}
    assert asked - known - FOREIGN == set()


def test_a_setting_in_a_sentence_is_there():
    sections = {name.split(".")[0].strip("-") for name in settings()}
    named = [re.fullmatch(r"(\w+)\.(\w+)(=\S+)?", part.text) for part in PROSE]
    named = [m for m in named if m and m[1] in sections and m[2] not in FILES]
    asked = {f"--{m[1]}.{m[2]}".replace("_", "-") for m in named}
    assert asked - settings() == set()


@pytest.mark.parametrize("page", PAGES)
def test_files_and_extras_are_there(page):
    text = "\n".join(found.text for found in (*COMMANDS, *PROSE) if found.page == page)
    for path in re.findall(r"(?<![\w/])(?:tools|tests|configs|docs|\.ci)/[\w./*-]*", text):
        assert list(ROOT.glob(path.rstrip("/."))), path
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for extra in re.findall(r"(?:vasae-jax|'\.)\[(\w+)\]", text):
        assert extra in setup["options.extras_require"], extra


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


@pytest.mark.parametrize("block", BLOCKS, ids=ids)
def test_imports_are_there(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("vasae_jax"):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name)
