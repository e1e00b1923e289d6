"""Reading a compiled TPU program's text: its instructions, loops and collectives."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2,
    "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8,
}  # fmt: skip
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
        op: its opcode.
        shapes: (element type, sizes) of each array that it makes.
        text: the whole line.
    """

    op: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    text: str

    @property
    def cycles(self) -> int:
        """What the compiler's cost model says it takes; 0 where it says nothing."""
        match = re.search(r'"estimated_cycles":"?(\d+)', self.text)
        return int(match[1]) if match else 0

    @property
    def nbytes(self) -> int:
        """Bytes of what it makes."""
        return sum(BYTES.get(kind, 4) * math.prod(sizes) for kind, sizes in self.shapes)

    @property
    def group(self) -> int:
        """Devices that a collective runs over."""
        listed = re.search(r"replica_groups=\{\{([\d,]*)\}", self.text)
        if listed:
            return len(listed[1].split(","))
        grid = re.search(r"replica_groups=\[(\d+),(\d+)\]", self.text)
        return int(grid[2]) if grid else 1

    def names(self, *keys: str) -> list[str]:
        """The computations that it calls as ``key=%name`` or ``key={%a, %b}``."""
        names = []
        for key in keys:
            for match in re.finditer(key + r"=(?:\{([^}]*)\}|%([\w.\-]+))", self.text):
                names += re.findall(r"[\w.\-]+", match[1] or match[2])
        return names


@dataclass(frozen=True)
class Program:
    """A compiled program: computations by name, and the one where it begins."""

    computations: dict[str, list[Instruction]]
    entry: str

    def trips(self, loop: Instruction) -> int | None:
        """How often a loop runs, or None where that depends on data."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)', loop.text)
        if known:
            return int(known[1])
        condition = self.computations[loop.names("condition")[0]]
        bounds = [m[1] for i in condition for m in [re.search(r" constant\((\d+)\)", i.text)] if m]
        compared = [i for i in condition if i.op == "compare"]
        simple = len(condition) <= 5 and len(bounds) == len(compared) == 1
        return int(bounds[0]) if simple else None


def parse(text: str) -> Program:
    """The program whose ``as_text()`` this is."""
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
    for place, letter in enumerate(definition):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place + 1
    return len(definition)


def collectives(program: Program, name: str) -> Iterator[tuple[str, Instruction]]:
    """(kind, instruction) of each in computation ``name``; of an asynchronous one its start.

    A collective that a TPU's compiler overlaps with a product is in three fusions. Only the first,
    which calls an AsyncCollectiveStart, is counted.
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
