"""What a compiled program costs on one device, by its compiler's estimate.

Time is the sum of the ``estimated_cycles`` that libtpu's cost model leaves on the
instructions of the scheduled program (fusions, copies, reductions), over the chip's clock,
loops counted as often as they run. Two kinds of instruction have none and are added here:

* collectives: bytes over the chip's interconnect, as on a ring (an all-reduce sends
  2 (n-1)/n of its bytes, the others (n-1)/n), nothing overlapped;
* sorts: n log2(n) (log2(n) + 1) / 4 compare-and-exchanges, ``SORT_OPS`` vector operations
  each and operand.

Loops whose number of rounds depends on data, and the dearer branches of conditions, are
counted once and apart, as ``rare_s``: a step pays them only when there is something to do.
XLA's own ``optimal_seconds`` is no use here: it is negative for these programs.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vasae_jax.aot.chips import Chip
from vasae_jax.aot.hlo import Instruction, Program, collectives, parse

SORT_OPS = 4
VECTOR_LANES = 8 * 128 * 4
"""Numbers that the vector unit works on in a cycle."""


@dataclass
class Cost:
    """Per device and run of the program; bytes, flops and seconds."""

    bytes_per_device: int = 0
    flops: float = 0.0
    bytes_accessed: float = 0.0
    cycles: float = 0.0
    rare_cycles: float = 0.0
    collective_s: float = 0.0
    collectives: dict[str, dict[str, float]] = field(default_factory=dict)
    sorts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    rare_s: float = 0.0


def cost_of(compiled: Any, chip: Chip, rounds: int = 0) -> Cost:
    """The cost of a ``jax.stages.Compiled`` for ``chip``.

    ``rounds`` is how often loops run whose bounds are data, where the caller knows it.
    """
    memory, analysis = compiled.memory_analysis(), compiled.cost_analysis()
    cost = Cost(
        bytes_per_device=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
        - memory.alias_size_in_bytes,
        flops=analysis.get("flops", 0.0),
        bytes_accessed=analysis.get("bytes accessed", 0.0),
    )
    program = parse(compiled.as_text())
    _Walk(program, chip, cost, rounds).computation(program.entry, 1.0)
    cost.seconds = cost.cycles / chip.hertz + cost.collective_s
    cost.rare_s = cost.rare_cycles / chip.hertz
    return cost


class _Walk:
    """Adds up a program's instructions into a cost."""

    def __init__(self, program: Program, chip: Chip, cost: Cost, rounds: int) -> None:
        self.program, self.chip, self.cost, self.rounds = program, chip, cost, rounds

    def computation(self, name: str, times: float) -> None:
        for instruction in self.program.computations[name]:
            if instruction.op == "while":
                self._loop(instruction, times)
            elif instruction.op == "conditional":
                self._branches(instruction, times)
            elif instruction.op == "sort":
                self._sort(instruction, times)
            else:
                self.cost.cycles += instruction.cycles * times
        for kind, instruction in collectives(self.program, name):
            self._collective(kind, instruction, times)

    def _loop(self, loop: Instruction, times: float) -> None:
        body, rounds = loop.names("body")[0], self.program.trips(loop)
        if rounds is None:
            rounds = self.rounds
        if not rounds:
            self.cost.rare_cycles += self._separately(body).cycles * times
        else:
            self.computation(body, times * rounds)

    def _branches(self, condition: Instruction, times: float) -> None:
        names = condition.names("branch_computations", "true_computation", "false_computation")
        costs = sorted((self._separately(name).cycles, name) for name in names)
        self.computation(costs[0][1], times)
        self.cost.rare_cycles += (costs[-1][0] - costs[0][0]) * times

    def _separately(self, name: str) -> Cost:
        cost = Cost()
        _Walk(self.program, self.chip, cost, self.rounds).computation(name, 1.0)
        return cost

    def _sort(self, sort: Instruction, times: float) -> None:
        sizes = sort.shapes[0][1]
        axis = int(sort.text.split("dimensions={")[1].split("}")[0])
        stages = math.log2(max(sizes[axis], 2))
        exchanges = math.prod(sizes) * stages * (stages + 1) / 4
        self.cost.cycles += times * exchanges * SORT_OPS * len(sort.shapes) / VECTOR_LANES
        self.cost.sorts["x".join(map(str, sizes))] += int(times)

    def _collective(self, kind: str, instruction: Instruction, times: float) -> None:
        group = instruction.group
        if group == 1:
            return
        asynchronous = instruction.op.endswith("-start") and len(instruction.shapes) > 1
        size = instruction.nbytes / (2 if asynchronous else 1)
        total = size * group if kind == "reduce-scatter" else size
        sent = total * (group - 1) / group * (2 if kind == "all-reduce" else 1)
        entry = self.cost.collectives.setdefault(kind, {"count": 0, "bytes": 0.0})
        entry["count"] += times
        entry["bytes"] += size * times
        self.cost.collective_s += times * sent / self.chip.ici_rate
