#!/usr/bin/env python3
"""Compile a run's programs for a TPU slice that is not there, and print what they would cost.

    python tools/aot.py --topology v5e:4x4 --config configs/llama31_8b.py --rows 8192
    python tools/aot.py --topology v5e:16x16 --config configs/llama31_8b.py --model 16 --json

Needs libtpu (pip install 'vasae-jax[aot]'), which compiles without a TPU; a program takes
seconds. Figures are per device. Time is the compiler's cost model (see vasae_jax.aot.cost), an
estimate: nothing has run. ``--json`` prints one object for each program:

    program, topology, mesh  what was compiled, for which devices
    fits                     whether bytes_per_device are in the chip's memory; where the compiler
                             itself refuses, its message ``compiler`` is the only other figure
    step_s                   seconds of one run
    rare_s                   seconds of data-dependent work, once, not in step_s
    mfu                      useful flops (10 * rows * d * features) over time and peak (step; pack,
                             of all its runs: as many as --mesh.member)
    tokens_per_s             rows a second over all devices (step, pack, evaluation, extraction)
    bytes_per_device, flops, bytes_accessed
    collectives              count and bytes by kind, collective_s their part of step_s
"""

import argparse
import json
import os
import sys

os.environ["JAX_PLATFORMS"] = "cpu"

from jax.sharding import Mesh

from vasae_jax.aot import (
    PROGRAMS,
    Cost,
    Shapes,
    Slice,
    TooLarge,
    compile_program,
    cost_of,
    open_slice,
)
from vasae_jax.aot.programs import CONTEXT, WINDOWS
from vasae_jax.config import Config
from vasae_jax.config.overrides import load_config, parse_overrides
from vasae_jax.distributed.mesh import DATA, MODEL
from vasae_jax.utils.ending import command_words, exit_code
from vasae_jax.utils.streams import protect_streams


def main() -> int:
    """Compile and print; returns the exit code."""
    protect_streams()
    args, overrides = _parser().parse_known_args(command_words())
    return exit_code(lambda: estimate(args, overrides), "aot")


def estimate(args: argparse.Namespace, overrides: list[str]) -> None:
    """Compile the programs that the arguments name, and print what they cost."""
    config = parse_overrides(load_config(args.config), overrides, "tools/aot.py")
    tpu = open_slice(args.topology)
    rows = args.rows or config.data.batch
    shapes = Shapes(args.d, args.vocab, args.features or args.vocab, rows)
    records = [record_of(name, config, shapes, tpu, args.model) for name in args.programs]
    least = least_slice(config, shapes, tpu) if args.least else None
    for record in records:
        print(json.dumps(record) if args.json else table(record, tpu))
    if least is not None:
        print(json.dumps({"least": least}) if args.json else f"least mesh that fits: {least}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--topology", required=True, help="such as v5e:4x4, v6e:16x16 or v5p:4x4x4")
    add("--config", required=True, help="a config file; its settings may be overridden")
    add("--rows", type=int, help="rows of a batch (default: the config's)")
    add("--d", type=int, default=4096, help="width of a row (default: Llama-3.1-8B)")
    add("--vocab", type=int, default=131072, help="anchors (default: Llama-3.1-8B's, padded)")
    add("--features", type=int, help="d_sae (default: as many as anchors)")
    add("--model", type=int, default=0, help="devices along the features (default: all)")
    names = tuple(PROGRAMS)
    add("--programs", nargs="+", choices=names, default=["step"], help="what to compile")
    add("--least", action="store_true", help="also find the fewest devices whose memory holds it")
    add("--json", action="store_true", help="print JSON objects")
    return parser


def record_of(name: str, config: Config, shapes: Shapes, tpu: Slice, model: int) -> dict:
    """The record of one program."""
    member = config.mesh.member if name == "pack" else 1
    model = model or len(tpu.devices) // member
    mesh = tpu.mesh(member, model)
    # Extraction runs its one compiled block as often as there are blocks up to the layer.
    rounds = config.data.layer + 1 if name == "extraction" else 0
    axes = f"data={mesh.shape[DATA]} model={mesh.shape[MODEL]}"
    axes = f"member={member} {axes}" if name == "pack" else axes
    which = {"program": name, "topology": tpu.name, "mesh": axes}
    try:
        cost = cost_of(compile_program(name, config, shapes, mesh), tpu.chip, rounds)
    except TooLarge as error:
        return which | {"fits": False, "compiler": str(error)}
    record = which | {
        "fits": cost.bytes_per_device <= tpu.chip.hbm,
        "step_s": cost.seconds,
        "rare_s": cost.rare_s,
    }
    if name in ("step", "pack"):
        useful = member * shapes.step_flops
        record["mfu"] = useful / mesh.size / tpu.chip.flops / cost.seconds
    rows = {"step": shapes.rows, "pack": member * shapes.rows, "evaluation": shapes.rows}
    rows["extraction"] = WINDOWS * mesh.shape[DATA] * CONTEXT
    if name in rows:
        record["tokens_per_s"] = rows[name] / cost.seconds
    return record | {
        "bytes_per_device": cost.bytes_per_device,
        "flops": cost.flops,
        "bytes_accessed": cost.bytes_accessed,
        "collective_s": cost.collective_s,
        "collectives": cost.collectives,
        "sorts": dict(cost.sorts),
    }


def least_slice(config: Config, shapes: Shapes, tpu: Slice) -> str:
    """The fewest devices along ``model`` alone whose memory holds the step, in words."""
    model = 1
    while model <= len(tpu.devices):
        mesh = tpu.mesh(1, len(tpu.devices))  # compiled for all; only the part of one counts
        part = Shapes(
            shapes.d, shapes.vocab, shapes.features * len(tpu.devices) // model, shapes.rows
        )
        if _holds(config, part, mesh, tpu):
            return f"data=1 model={model}"
        model *= 2
    return f"more than {len(tpu.devices)} devices"


def _holds(config: Config, shapes: Shapes, mesh: Mesh, tpu: Slice) -> bool:
    try:
        cost: Cost = cost_of(compile_program("step", config, shapes, mesh), tpu.chip)
    except TooLarge:
        return False
    return cost.bytes_per_device <= tpu.chip.hbm


def table(record: dict, tpu: Slice) -> str:
    """A record for people."""
    gib = 2**30
    title = f"{record['program']} on {record['topology']}, {record['mesh']} (cost model's estimate)"
    if "compiler" in record:
        return f"{title}\n  memory       does not fit: {record['compiler']}"
    lines = [
        title,
        f"  memory       {record['bytes_per_device'] / gib:8.2f} GiB of {tpu.chip.hbm / gib:.0f}"
        f" a device: {'fits' if record['fits'] else 'does not fit'}",
        f"  flops        {record['flops'] / 1e9:8.1f} G, {record['bytes_accessed'] / 1e9:.1f} GB",
        f"  time         {record['step_s'] * 1e3:8.2f} ms, of it collectives "
        f"{record['collective_s'] * 1e3:.2f} ms; rare work {record['rare_s'] * 1e3:.2f} ms more",
    ]
    if "mfu" in record:
        lines.append(f"  mfu          {record['mfu']:8.1%}")
    if "tokens_per_s" in record:
        lines.append(f"  tokens       {record['tokens_per_s']:8,.0f} a second, all devices")
    for kind, sent in record["collectives"].items():
        lines.append(f"  {kind:<13}{sent['count']:8.0f} of {sent['bytes'] / 1e6:,.1f} MB in all")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
