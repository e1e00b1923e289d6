"""The bench of quality: which peer ours are held against, for how long, and what a kill leaves."""

import ast
from argparse import Namespace
from pathlib import Path

import pytest

from vasae_jax.utils.errors import UserError

BENCHES = Path(__file__).parents[1] / "tools/bench"


@pytest.fixture
def quality(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHES))
    import quality

    return quality


def peer(name, explained, seconds):
    return {"name": name, "variance_explained": explained, "seconds": seconds}


def test_the_best_peer_is_the_fastest_of_those_that_explain_as_much(quality):
    slow, fast, poor = peer("slow", 0.865, 0.2), peer("fast", 0.864, 0.07), peer("poor", 0.8, 0.01)
    assert quality.best_peer([slow, fast, poor]) is fast
    assert quality.best_peer([slow, poor]) is slow
    assert quality.best_peer([fast | {"variance_explained": 0.862}, slow]) is slow


@pytest.mark.parametrize(("theirs", "ours", "steps"), [(0.08, 0.04, 1200), (0.04, 0.08, 300)])
def test_equal_steps_take_as_long_as_the_peer(quality, theirs, ours, steps):
    assert quality.equal_steps(600, theirs, ours) == steps


def test_at_least_one_step_is_taken(quality):
    assert quality.equal_steps(1, 0.01, 1.0) == 1


def never():
    raise AssertionError("was measured again")


def test_what_was_measured_is_not_measured_again(quality, tmp_path):
    file, subject = tmp_path / "results.jsonl", {"cache": "a"}
    results = quality.Results(file, subject)
    assert results.get({"peer": "x", "lr": 0.001}, lambda: {"seconds": 1.0}) == {"seconds": 1.0}
    again = quality.Results(file, subject)
    assert again.get({"peer": "x", "lr": 0.001}, never) == {"seconds": 1.0}
    assert again.get({"peer": "x", "lr": 0.002}, lambda: {"seconds": 2.0}) == {"seconds": 2.0}


def test_a_line_that_a_kill_cut_is_measured_again(quality, tmp_path):
    file, subject = tmp_path / "results.jsonl", {"cache": "a"}
    results = quality.Results(file, subject)
    results.get({"peer": "x"}, lambda: {"seconds": 1.0})
    results.get({"peer": "y"}, lambda: {"seconds": 2.0})
    file.write_text(file.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    quality.Results(file, subject).get({"peer": "y"}, lambda: {"seconds": 3.0})
    left = quality.Results(file, subject)
    assert left.get({"peer": "x"}, never) == {"seconds": 1.0}
    assert left.get({"peer": "y"}, never) == {"seconds": 3.0}


def test_results_of_another_cache_are_refused(quality, tmp_path):
    quality.Results(tmp_path / "results.jsonl", {"cache": "a"})
    with pytest.raises(UserError):
        quality.Results(tmp_path / "results.jsonl", {"cache": "b"})


@pytest.mark.parametrize("setting", ["sae.k=64", "data.batch=512", "optim.rate=1"])
def test_a_setting_that_would_part_ours_from_the_peers_is_refused(quality, setting):
    shape = {"cache": "unused", "layer": 1, "rows": 16, "features": 64, "k": 4}
    with pytest.raises(UserError):
        quality.config_of(Namespace(**shape, set=[setting]), "plain", 10)


def test_settings_of_ours_are_taken(quality):
    shape = {"cache": "unused", "layer": 1, "rows": 16, "features": 64, "k": 4}
    found = quality.config_of(Namespace(**shape, set=["optim.lr=0.008"]), "plain", 10)
    assert (found.optim.lr, found.sae.d_sae, found.sae.k, found.run.steps) == (0.008, 64, 4, 10)


@pytest.mark.parametrize("path", sorted(BENCHES.glob("*.py")), ids=lambda path: path.stem)
def test_a_bench_reads_only_options_that_it_has(path):
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    firsts = [node.args[0] for node in nodes if isinstance(node, ast.Call) and node.args]
    texts = [str(node.value) for node in firsts if isinstance(node, ast.Constant)]
    options = {text.lstrip("-").replace("-", "_") for text in texts}
    read = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "args"
    }
    assert read <= options
