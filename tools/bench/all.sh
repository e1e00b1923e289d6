#!/usr/bin/env bash
# Every bench of a machine without an accelerator, and the tables of docs/benchmarks.md from them.
#
#     tools/bench/all.sh out/bench                        # 27 minutes or so on two CPU cores
#     tools/bench/all.sh out/bench docs/benchmarks.md     # and puts the tables there
#
# Nothing else should compute meanwhile. extract.py needs PyTorch (pip install '.[torch]').
set -euo pipefail
out=$1 into=${2:-}
here=$(dirname "$0")
mkdir -p "$out"
say() { echo "+ [$((SECONDS / 60)) min $((SECONDS % 60)) s] $1" >&2; }
bench() {
    local name=$1 script=$2
    shift 2
    say "$name"
    python "$here/$script" "$@" --json >"$out/$name.json.part"
    mv "$out/$name.json.part" "$out/$name.json"
}
bench run run.py --out "$out/run"
bench extract extract.py
bench step-quickstart step.py --shape quickstart --rows 1024
bench step-1024 step.py --shape gpt2 --rows 1024 --repeats 7
bench step-4096 step.py --shape gpt2 --rows 4096 --repeats 5
bench whole whole.py --cache "$out/run/cache" --layer 15
bench naming naming.py
bench eval eval.py --run "$out/run/run"
say "tables"
python "$here/table.py" "$out"/*.json ${into:+--into "$into"}
