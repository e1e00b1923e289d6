#!/usr/bin/env python3
"""The tables of docs/benchmarks.md, from what the benches print with ``--json``.

    tools/bench/all.sh out/bench                          # or tools/bench/gpu.sh
    python tools/bench/table.py out/bench/*.json          # prints Markdown
    python tools/bench/table.py out/bench/*.json --into docs/benchmarks.md

``--into`` replaces what stands between the lines MARKS of that file. A file holds one object. Its
kind is told by its keys; an unknown one is refused.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARKS = ("<!-- made by tools/bench/table.py -->", "<!-- end of what it made -->")
Record = dict[str, Any]


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def run(records: list[Record]) -> str:
    """Stages of whole runs."""
    (record,) = records[-1:]
    keys = ("seconds", "compile_s", "floor_s")
    rows = [
        [stage["stage"], *(number(stage[key]) for key in keys), number(stage["ratio"], "")]
        for stage in record["stages"]
    ]
    rows.append(["all", number(record["total_s"]), "", "", ""])
    said = f"A quickstart of {record['rows']:,} rows, {record['steps']} steps: {record['device']}."
    heads = ["stage", "taken", "of it compiling", "floor", "taken / floor"]
    return f"{said}\n\n{table(heads, rows)}"


def extract(records: list[Record]) -> str:
    """Extraction by type."""
    (record,) = records[-1:]
    rows = [
        [
            name,
            f"{found['rows_per_s']:,.0f}",
            f"{found['floor_rows_per_s']:,.0f}",
            f"{found['share_of_floor']:.0%}",
            f"{found['several_over_one']:.3f}",
            f"{found.get('torch_rows_per_s', 0):,.0f}" if "torch_rows_per_s" in found else "",
            f"{found['over_torch']:.2f}" if "over_torch" in found else "",
        ]
        for name, found in record["types"].items()
    ]
    said = f"Extraction, rows a second ({record['device']}); padding {record['padding']:.1%}."
    heads = ["type", "rows/s", "floor", "share", "three layers / one", "PyTorch", "ours / PyTorch"]
    return f"{said}\n\n{table(heads, rows)}"


def step(records: list[Record]) -> str:
    """Training steps."""
    rows = [
        [
            f"{each['d_in']} x {each['d_sae']}",
            str(each["rows"]),
            f"{each['execution']}, {each['compute']}",
            *(number(each[key], " s", 3) for key in ("plain_s", "soft_s", "layer_s", "floor_s")),
            *(f"{each[key]:.2f}" for key in ("soft_over_plain", "layer_over_soft")),
            f"{each['plain_over_floor']:.2f}",
        ]
        for each in records
    ]
    heads = ["shape", "rows", "how", "plain", "soft", "layer", "floor"]
    heads += ["soft / plain", "layer / soft", "plain / floor"]
    return f"A training step ({records[0]['device']}).\n\n{table(heads, rows)}"


def whole(records: list[Record]) -> str:
    """What the pull costs whole runs."""
    rows = [
        [
            str(each["d_sae"]),
            str(each["steps"]),
            f"{each['soft_over_plain']:.3f}",
            f"{each['always_over_plain']:.3f}",
            f"{each['mismatch']['soft']:.2%}",
            f"{each['shortfall']['soft']:.1e}",
        ]
        for each in records
    ]
    heads = ["features", "steps", "default / plain", "pull from the start / plain"]
    heads += ["mismatch", "shortfall"]
    return f"All steps of a run ({records[0]['device']}).\n\n{table(heads, rows)}"


def naming(records: list[Record]) -> str:
    """The naming search."""
    keys = ("features", "seconds", "gflops", "peak_gflops")
    rows = [[*(str(each[key]) for key in keys), f"{each['peak_share']:.0%}"] for each in records]
    heads = ["features", "seconds", "GFLOP/s", "a plain product", "share"]
    return f"Naming.\n\n{table(heads, rows)}"


def evaluation(records: list[Record]) -> str:
    """Evaluation of rows, and of a patched model."""
    rows = []
    for each in records:
        how = f"{each['d_in']} x {each['d_sae']}" + (", screened" if each["screened"] else "")
        times = (f"{each[key]:.3g} s" for key in ("taken_s", "floor_s"))
        best = f"{each['best_share']:.0%} ({each['best_type']})"
        rows.append([f"{each['rows']:,} rows, {how}", *times, f"{each['floor_share']:.0%}", best])
        for name, part in each.get("lm", {}).get("parts", {}).items():
            times = (f"{part[key]:.3g} s" for key in ("taken_s", "floor_s"))
            rows.append([f"--lm, {name}", *times, f"{part['share']:.0%}", ""])
    heads = ["evaluation", "taken", "floor", "floor / taken", "of the faster product"]
    return f"Evaluation ({records[0]['device']}).\n\n{table(heads, rows)}"


def quality(records: list[Record]) -> str:
    """Our SAEs beside those of other libraries."""
    (record,) = records[-1:]
    saes, best = record["saes"], record["best_peer"]
    heldout, model_ce = saes[0]["heldout_rows"], saes[0]["model_ce"]
    rows = [
        [
            each["name"],
            number(each["lr"], "", 2),
            f"{each['variance_explained']:.4f}",
            f"{each['kl']:.4f}",
            f"{each['ce']:.4f}",
            f"{each['dead']:.1%}",
            number(each["seconds"]),
            f"{each['equal_wall']:.4f} ({each['equal_steps']:,})" if "equal_wall" in each else "",
        ]
        for each in saes
    ]
    said = (
        f"{record['features']} features, k {record['k']}, {record['steps']} steps of "
        f"{record['rows']} rows: {record['train_rows']:,} of layer {record['layer']} of "
        f"{record['model']} on {record['text']} ({record['device']}). The model's CE is "
        f"{model_ce:.4f}. The peers' AuxK takes a feature for dead after {record['idle']} steps. "
        f"Equal time is that of {best}."
    )
    if record["set"]:
        said += f" Ours with {', '.join(record['set'])}."
    heads = ["SAE", "rate", "variance explained", "KL", "CE", f"dead on {heldout:,} rows"]
    heads += ["a step", "variance explained in equal time (steps)"]
    return f"{said}\n\n{table(heads, rows)}\n\n{rates(record)}"


def rates(record: Record) -> str:
    """What each library explains at each rate."""
    peers = [each for each in record["saes"] if "rates" in each]
    tried = list(peers[0]["rates"])
    rows = [[each["name"], *(f"{each['rates'][rate]:.4f}" for rate in tried)] for each in peers]
    heads = ["variance explained, by rate", *(f"{float(rate):g}" for rate in tried)]
    return table(heads, rows)


KINDS: dict[str, Callable[[list[Record]], str]] = {
    "stages": run,
    "types": extract,
    "plain_over_floor": step,
    "always_over_plain": whole,
    "peak_share": naming,
    "best_share": evaluation,
    "best_peer": quality,
}
"""A key that only one kind of record has, and what makes its table."""


def number(value: float | None, unit: str = " s", digits: int = 3) -> str:
    """A number with its unit, or nothing for None."""
    return "" if value is None else f"{value:.{digits}g}{unit}"


def tables(records: list[Record]) -> str:
    """All tables, in the order of KINDS."""
    parts = [(key, [one for one in records if key in one]) for key in KINDS]
    return "\n\n".join(KINDS[key](same) for key, same in parts if same)


def put_between(page: Path, marks: tuple[str, str], made: str) -> None:
    """Put ``made`` in place of what stands between two lines; SystemExit where they are not."""
    head, found, rest = page.read_text(encoding="utf-8").partition(marks[0])
    _, closed, tail = rest.partition(marks[1])
    if not found or not closed:
        raise SystemExit(f"{page} lacks the lines {marks[0]} and {marks[1]}")
    page.write_text(f"{head}{marks[0]}\n\n{made}\n\n{marks[1]}{tail}", encoding="utf-8")


def read(path: Path) -> Record:
    """One object; SystemExit where it is no record of a bench."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: {error}; expected what a bench prints with --json") from error
    if not isinstance(record, dict) or not KINDS.keys() & record.keys():
        raise SystemExit(f"{path} holds no record; expected one of those with {', '.join(KINDS)}")
    return record


def main() -> None:
    """Parse, read, print or put in place."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--into", type=Path, help="a Markdown file with the lines MARKS")
    args = parser.parse_args()
    made = tables([read(path) for path in args.files])
    if args.into is None:
        sys.stdout.write(made + "\n")
        return
    put_between(args.into, MARKS, made)


if __name__ == "__main__":
    main()
