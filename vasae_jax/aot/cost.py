"""Estimate what a compiled program costs on one device, from the program's text.

Time is the sum of the ``estimated_cycles`` that libtpu's cost model writes on the instructions of
the scheduled program (fusions, copies, reductions), divided by the chip's clock. Loops count as
often as they run. Two kinds of instruction have no estimate, which is added here:

* collectives: bytes over the chip's interconnect, as on a ring (an all-reduce sends
  2 (n-1)/n of its bytes, the others (n-1)/n), nothing overlapped;
* sorts: n log2(n) (log2(n) + 1) / 4 compare-and-exchanges, ``SORT_OPS`` vector operations
  each and operand.

Loops whose number of rounds depends on data, and the dearer branches of conditions, are
counted once and apart, as ``rare_s``: a step pays them only when there is something to do.
XLA's own ``optimal_seconds`` is no use here: it is negative for these programs.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from vasae_jax.aot.chips import Chip

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2,
    "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8,
}  # fmt: skip
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
SORT_OPS = 4
VECTOR_LANES = 8 * 128 * 4
"""Numbers that the vector unit works on in a cycle."""


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        op: its opcode.
        shapes: (element type, sizes) of each array that it makes.
        text: the line.
    """

    op: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    text: str

    @property
    def cycles(self) -> int:
        """Cycles that it takes by the compiler's cost model; 0 if that has no estimate."""
        match = re.search(r'"estimated_cycles":"?(\d+)', self.text)
        return int(match[1]) if match else 0

    @property
    def nbytes(self) -> int:
        """Bytes of what it makes."""
        return sum(BYTES.get(kind, 4) * math.prod(sizes) for kind, sizes in self.shapes)

    @property
    def group(self) -> int:
        """Devices that a collective runs over."""
        if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", self.text):
            return len(listed[1].split(","))
        grid = re.search(r"replica_groups=\[(\d+),(\d+)\]", self.text)
        return int(grid[2]) if grid else 1

    def names(self, *keys: str) -> list[str]:
        """The computations that it calls as ``key=%name`` or ``key={%a, %b}``."""
        return [
            name
            for key in keys
            for names in re.findall(key + r"=(\{[^}]*\}|%[\w.\-]+)", self.text)
            for name in re.findall(r"[\w.\-]+", names)
        ]


@dataclass(frozen=True)
class Program:
    """A compiled program: computations by name, and the one where it begins."""

    computations: dict[str, list[Instruction]]
    entry: str

    def trips(self, loop: Instruction) -> int | None:
        """How often a loop runs; None if that depends on data."""
        if known := re.search(r'known_trip_count":\{"n":"(\d+)', loop.text):
            return int(known[1])
        condition = self.computations[loop.names("condition")[0]]
        bounds = [m[1] for i in condition for m in [re.search(r" constant\((\d+)\)", i.text)] if m]
        compared = [i for i in condition if i.op == "compare"]
        simple = len(condition) <= 5 and len(bounds) == len(compared) == 1
        return int(bounds[0]) if simple else None


def parse(text: str) -> Program:
    """Parse what ``as_text()`` of a compiled program returns."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line)
        if head:
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            current.append(_instruction(line.strip()))
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    definition = line.split(" = ", 1)[1]
    end = _type_end(definition)
    arrays = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", definition[:end])
    shapes = tuple((kind, tuple(map(int, filter(None, s.split(","))))) for kind, s in arrays)
    return Instruction(definition[end:].lstrip().split("(")[0], shapes, line)


def _type_end(definition: str) -> int:
    """The end of the type with which an instruction's right side begins."""
    if not definition.startswith("("):
        return definition.index(" ")
    depth = 0
    for end, letter in enumerate(definition, 1):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return end
    return len(definition)


def collectives(program: Program, name: str) -> Iterator[tuple[str, Instruction]]:
    """The kind and the instruction of each collective in computation ``name``.

    Of an asynchronous collective only the start is counted: one that a TPU's compiler overlaps with
    a product is in three fusions, of which the first calls an AsyncCollectiveStart.
    """
    for instruction in program.computations[name]:
        kind = instruction.op.removesuffix("-start")
        if kind in COLLECTIVES:
            yield kind, instruction
        elif instruction.op == "fusion":
            for called in instruction.names("calls"):
                inside = program.computations.get(called, [])
                if any('custom_call_target="AsyncCollectiveStart"' in i.text for i in inside):
                    yield from collectives(program, called)


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


@dataclass(frozen=True)
class _Walk:
    """Adds up a program's instructions into a cost."""

    program: Program
    chip: Chip
    cost: Cost
    rounds: int

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
        body, known = loop.names("body")[0], self.program.trips(loop)
        if rounds := self.rounds if known is None else known:
            self.computation(body, times * rounds)
        else:
            self.cost.rare_cycles += self._separately(body).cycles * times

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
