"""The line of a logged step says what is so at that step."""

from dataclasses import replace

import pytest

from vasae_jax.config import AnchorConfig, Config, RunConfig, SAEConfig
from vasae_jax.training.log import print_progress

RECORD = {
    "rows": 4096, "fvu": 0.25, "l0": 32.0, "mean_cosine": 0.4875, "dead_fraction": 0.125,
    "uncertified": 0.03, "rows_per_s": 100.0, "dropped_rows": 0,
}  # fmt: skip
CONFIG = Config(anchor=AnchorConfig(start=0.3, target_cosine=0.5), run=RunConfig(steps=1000))


def line(step, capsys, **changes):
    config = replace(CONFIG, **changes)
    print_progress([{**RECORD, "step": step, "rows": step * 4096}], 1, config)
    return capsys.readouterr().err


def test_the_cosine_comes_with_its_cap_once_the_pull_has_started(capsys):
    assert "cosine" not in line(299, capsys) and "uncertified" not in line(299, capsys)
    assert "nearest cosine 0.487 (at most 0.5)  uncertified 3.0%" in line(300, capsys)


@pytest.mark.parametrize("method", ["plain", "tied"])
def test_a_run_without_a_pull_has_no_cosine(method, capsys):
    assert "cosine" not in line(500, capsys, sae=SAEConfig(method=method))


def test_a_mode_without_a_cap_names_none(capsys):
    said = line(500, capsys, anchor=replace(CONFIG.anchor, mode="softmax"))
    assert "nearest cosine 0.487  dead" in said


def test_dead_is_so_far_until_a_feature_can_have_been_idle_for_all_the_steps(capsys):
    assert "dead 12.5% so far" in line(199, capsys)
    assert "dead 12.5%  " in line(200, capsys)
