#!/usr/bin/env bash
# Everything to measure on a GPU, in under ten minutes, and the tables that it makes.
#
#     pip install '.[cuda,torch,quickstart]' && tools/bench/gpu.sh out/gpu
#     PEERS=peers/bin/python tools/bench/gpu.sh out/gpu   # peers as tools/bench/peers.py says
#
# No figure of it is in the docs yet: it was written where no GPU was at hand. Which execution is
# faster there, and in which type, is what the steps by step-*.json are compared for. CONTRIBUTING.md
# says how to trace a step.
set -euo pipefail
out=$1
here=$(dirname "$0")
mkdir -p "$out"
python - <<'PY'
import jax
assert jax.default_backend() == "gpu", f"JAX runs on {jax.default_backend()}; expected a GPU"
PY
say() { echo "+ [$((SECONDS / 60)) min $((SECONDS % 60)) s] $1" >&2; }
bench() {
    local name=$1 script=$2
    shift 2
    say "$name"
    timeout 150 python "$here/$script" "$@" --json >"$out/$name.json.part" &&
        mv "$out/$name.json.part" "$out/$name.json" || echo "$name failed or took too long" >&2
}
for execution in sparse dense; do
    for compute in float32 bfloat16; do
        bench "step-$execution-$compute" step.py --shape gpt2 --rows 4096 \
            --execution "$execution" --compute "$compute" ${PEERS:+--peers "$PEERS"}
    done
done
bench naming naming.py
bench extract extract.py --types bfloat16
bench run run.py --out "$out/run"
bench whole whole.py --cache "$out/run/cache" --layer 15 --steps 200
say "tables"
python "$here/table.py" "$out"/*.json
