"""The tables of docs/benchmarks.md come from what the benches print."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[1] / "tools/bench/table.py"
RUN = {
    "device": "a processor",
    "rows": 112876,
    "steps": 600,
    "total_s": 202.0,
    "stages": [
        {"stage": "model", "seconds": 2.0, "compile_s": 0.5, "floor_s": None, "ratio": None},
        {"stage": "extraction", "seconds": 200.0, "compile_s": 1.0, "floor_s": 100.0, "ratio": 2.0},
    ],
}


def made(*arguments):
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)], capture_output=True, text=True
    )


def test_a_table_is_put_between_its_marks_and_again(tmp_path):
    record, page = tmp_path / "run.json", tmp_path / "page.md"
    record.write_text(json.dumps(RUN), encoding="utf-8")
    marks = "<!-- made by tools/bench/table.py -->", "<!-- end of what it made -->"
    page.write_text("\n".join(("before", *marks, "after")), encoding="utf-8")
    assert made(record, "--into", page).returncode == 0
    first = page.read_text(encoding="utf-8")
    assert "| extraction | 200 s | 1 s | 100 s | 2 |" in first
    assert "| model | 2 s | 0.5 s |  |  |" in first
    assert first.startswith("before") and first.endswith("after")
    assert made(record, "--into", page).returncode == 0
    assert page.read_text(encoding="utf-8") == first


def test_an_evaluation_has_a_line_for_its_rows_and_for_each_part_with_a_model(tmp_path):
    times = {"taken_s": 10.0, "floor_s": 8.0}
    rows = {"d_in": 768, "d_sae": 50257, "rows": 24576, "screened": True, "floor_share": 0.8}
    best = {"best_share": 0.4, "best_type": "bfloat16", "device": "a processor"}
    lm = {"parts": {"patching": times | {"share": 0.8}}}
    record = tmp_path / "eval.json"
    record.write_text(json.dumps(rows | times | best | {"lm": lm}), encoding="utf-8")
    found = made(record).stdout
    assert "| 24,576 rows, 768 x 50257, screened | 10 s | 8 s | 80% | 40% (bfloat16) |" in found
    assert "| --lm, patching | 10 s | 8 s | 80% |  |" in found


def sae(name, **found):
    figures = {"kl": 0.2, "ce": 3.5, "dead": 0.01, "heldout_rows": 2000, "model_ce": 3.25}
    return (
        {"name": name, "lr": 0.004, "seconds": 0.07, "variance_explained": 0.86} | figures | found
    )


def test_a_peer_has_a_line_and_its_rates_and_ours_say_what_equal_time_gives(tmp_path):
    shape = {"features": 64, "k": 4, "rows": 16, "steps": 600, "idle": 100}
    head = {"train_rows": 9000, "layer": 1, "model": "a model", "text": "a text", "set": []}
    rates = {"rates": {"0.002": 0.7, "0.004": 0.8}}
    equal = {"equal_wall": 0.87, "equal_steps": 1050}
    saes = [sae("a library", **rates), sae("plain", kl=0.25, **equal)]
    record = tmp_path / "quality.json"
    head |= {"device": "a processor", "best_peer": "a library", "saes": saes}
    record.write_text(json.dumps(shape | head), encoding="utf-8")
    found = made(record).stdout
    assert "| a library | 0.004 | 0.8600 | 0.2000 | 3.5000 | 1.0% | 0.07 s |  |" in found
    assert "| plain | 0.004 | 0.8600 | 0.2500 | 3.5000 | 1.0% | 0.07 s | 0.8700 (1,050) |" in found
    assert "| a library | 0.7000 | 0.8000 |" in found


def test_what_is_no_record_is_refused_by_name(tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"a": 1}', encoding="utf-8")
    found = made(other)
    assert found.returncode == 1 and str(other) in found.stderr
