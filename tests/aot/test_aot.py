"""What compiled TPU programs cost: the arithmetic on a small text, and a real compile."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vasae_jax.aot.chips import CHIPS
from vasae_jax.aot.cost import cost_of, parse

ROOT = Path(__file__).parents[2]
TEXT = """HloModule made_up

%body (p: s32[]) -> s32[] {
  %p = s32[]{:T(128)} parameter(0)
  %f = f32[8,128]{1,0} fusion(%p), kind=kLoop, backend_config={"estimated_cycles":"100"}
}

%cond (p.1: s32[]) -> pred[] {
  %p.1 = s32[] parameter(0)
  %c = s32[] constant(5)
  ROOT %lt = pred[] compare(%p.1, %c), direction=LT
}

%data_cond (p.2: s32[], q: s32[]) -> pred[] {
  %p.2 = s32[] parameter(0)
  %q = s32[] parameter(1)
  ROOT %lt.1 = pred[] compare(%p.2, %q), direction=LT
}

%cheap (a: f32[]) -> f32[] {
  %x = f32[] copy(%a), backend_config={"estimated_cycles":"10"}
}

%dear (b: f32[]) -> f32[] {
  %y = f32[] copy(%b), backend_config={"estimated_cycles":"70"}
}

%async_start (c: bf16[4,4]) -> bf16[16,4] {
  %c = bf16[4,4]{1,0} parameter(0)
  %ag.1 = bf16[16,4]{1,0} all-gather(%c), replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %call = bf16[16,4]{1,0} custom-call(%ag.1), custom_call_target="AsyncCollectiveStart"
}

%async_done (e: bf16[4,4]) -> bf16[16,4] {
  %e = bf16[4,4]{1,0} parameter(0)
  %ag.2 = bf16[16,4]{1,0} all-gather(%e), replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %call.1 = bf16[16,4]{1,0} custom-call(%ag.2), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (x: bf16[16,4]) -> f32[4] {
  %while.1 = s32[] while(%x), condition=%cond, body=%body
  %while.2 = s32[] while(%x), condition=%data_cond, body=%body
  %if = f32[] conditional(%x), branch_computations={%cheap, %dear}
  %sum = f32[1000,50]{1,0} all-reduce(%x), replica_groups={{0,1,2,3}}, to_apply=%add
  %ag = (bf16[4,4]{1,0}, bf16[16,4]{1,0}) all-gather-start(%x), replica_groups=[2,4]<=[8]
  %begun = bf16[16,4]{1,0} fusion(%x), kind=kCustom, calls=%async_start
  %ended = bf16[16,4]{1,0} fusion(%begun), kind=kCustom, calls=%async_done
  %s = (f32[2,256]{1,0}, s32[2,256]{1,0}) sort(%x, %y), dimensions={1}, to_apply=%lt
}
"""


class Compiled:
    """The three things that are asked of a compiled program."""

    def as_text(self):
        return TEXT

    def cost_analysis(self):
        return {"flops": 7.0, "bytes accessed": 9.0}

    def memory_analysis(self):
        sizes = {"argument": 100, "output": 50, "temp": 20, "generated_code": 5, "alias": 40}
        names = {f"{name}_size_in_bytes": size for name, size in sizes.items()}
        return type("Memory", (), names)


def test_loops_branches_collectives_and_sorts_are_added_up():
    cost = cost_of(Compiled(), CHIPS["v5e"])
    sort = 2 * 256 * 8 * 9 / 4 * 4 * 2 / 4096  # exchanges, operations, operands, lanes
    assert cost.cycles == 5 * 100 + 10 + sort
    assert cost.rare_cycles == 100 + 60
    assert cost.bytes_per_device == 135
    assert cost.collectives["all-reduce"] == {"count": 1, "bytes": 200_000}
    assert cost.collectives["all-gather"] == {"count": 2, "bytes": 80 + 128}
    sent = 200_000 * 2 * 3 / 4 + (80 + 128) * 3 / 4
    assert cost.collective_s == pytest.approx(sent / 200e9)
    assert cost.seconds == pytest.approx(cost.cycles / 1.5e9 + cost.collective_s)
    assert cost_of(Compiled(), CHIPS["v5e"], rounds=3).cycles == 8 * 100 + 10 + sort


def test_the_text_is_read_instruction_by_instruction():
    program = parse(TEXT)
    assert program.entry == "main"
    ops = [instruction.op for instruction in program.computations["main"]]
    assert ops[:5] == ["while", "while", "conditional", "all-reduce", "all-gather-start"]
    assert ops[5:] == ["fusion", "fusion", "sort"]
    assert program.computations["main"][4].group == 4


def aot(*arguments):
    command = [sys.executable, str(ROOT / "tools/aot.py"), "--config", "configs/gpt2_small.py"]
    # Compiled as a user does: optimised, and none of it loaded.
    own = {"PYTHONPATH": str(ROOT), "XLA_FLAGS": "", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    environment = os.environ | own
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )


def test_a_topology_that_is_none_is_refused():
    done = aot("--topology", "v9:4x4")
    assert done.returncode == 2
    assert "--topology is 'v9:4x4'; expected one of v5e, v5p, v6e" in done.stderr


def test_the_real_programs_compile_for_a_slice():
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed (0.7 GB; pip install 'vasae-jax[aot]')")
    sizes = ["--rows", "256", "--d", "4096", "--vocab", "4096", "--features", "4096"]
    programs = ["--programs", "step", "evaluation", "naming", "extraction"]
    done = aot("--topology", "v5e:2x2", "--model", "2", *sizes, *programs, "--json")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["program"] for record in records] == programs[1:]
    step = records[0]
    assert step["mesh"] == "data=2 model=2"
    assert step["fits"]
    assert 0 < step["mfu"] < 1
    assert step["step_s"] > 0
    assert step["tokens_per_s"] == pytest.approx(256 / step["step_s"])
    # The gradients of both matrices, float32 [2048, 4096] each, are summed over data.
    assert step["collectives"]["all-reduce"]["bytes"] > 2 * 2048 * 4096 * 4
    assert all(record["fits"] and record["step_s"] > 0 for record in records)
