"""Which block's output other libraries mean by a name."""

import re
from pathlib import Path

from vasae_jax.system.errors import UserError


def layer_of_hook(hook: str, where: Path) -> int | None:
    """The block whose output ``hook`` reads; None where it says nothing of a layer.

    TransformerLens' ``hook_resid_pre`` of a block is the output of the one before it. A module's
    name, as ``model.layers.5``, ``h.5`` or ``gpt_neox.layers.5``, is that block's output.

    Raises:
        UserError: a place that is no block's output.
    """
    found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", hook)
    if found:
        layer = int(found[1]) - (found[2] == "pre")
        if layer >= 0:
            return layer
    found = re.fullmatch(r"(?:[a-z_]+\.)*(?:layers|h|blocks)[._](\d+)(?:\.output)?", hook)
    if found:
        return int(found[1])
    if not re.search(r"\d", hook) and not hook.startswith("hook"):
        return None
    raise UserError(
        f"{where} reads {hook}; expected the residual stream after a block, "
        "as blocks.5.hook_resid_post or layers.5"
    )
