"""Finding the blocks and the final norm in a model of any family, by shape and behaviour."""

import copy
from typing import Any

from vasae_jax.system.errors import UserError

NORM_NAMES = (
    "norm", "ln_f", "norm_f", "final_layer_norm", "final_layernorm", "final_norm",
    "layer_norm", "layernorm",
)  # fmt: skip
EPS_NAMES = ("eps", "variance_epsilon", "epsilon")
NO_NORM = {"kind": "none", "eps": 0.0, "weight": None, "bias": None}


def find_blocks(model: Any, n_layers: int) -> tuple[str, Any]:
    """The name and the ModuleList of the decoder's blocks.

    It is the outermost ModuleList that has as many entries as the model has layers.

    Raises:
        UserError: there is none, or more than one.
    """
    from torch import nn

    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    }
    outer = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]
    if len(outer) != 1:
        raise UserError(
            f"{type(model).__name__} has {len(outer)} lists of {n_layers} modules"
            f"{': ' if outer else ''}{', '.join(outer)}; expected one, the decoder's blocks"
        )
    return outer[0], found[outer[0]]


def find_final_norm(model: Any, blocks: str, d_model: int) -> dict[str, Any]:
    """The norm after the last block, as ``vocab/final_norm.json`` describes it.

    The kind is told by running the norm on random rows and comparing with both formulas,
    and so is whether it multiplies by its weight or, as Gemma does, by one more than it:
    the weight given is the one that is really multiplied by.

    Args:
        model: the transformers model.
        blocks: name of its list of blocks; the norm is a sibling of it.
        d_model: width of a row.

    Raises:
        UserError: the norm is neither RMSNorm nor LayerNorm.
    """
    parent = model.get_submodule(blocks.rpartition(".")[0])
    children = dict(parent.named_children())
    name = next((name for name in NORM_NAMES if name in children), None)
    return dict(NO_NORM) if name is None else describe_norm(children[name], d_model)


def describe_norm(module: Any, d_model: int) -> dict[str, Any]:
    """Kind, eps, effective weight and bias of a norm over rows of width ``d_model``."""
    import torch

    module = copy.deepcopy(module).float().cpu()
    rows = torch.randn(8, d_model, generator=torch.Generator().manual_seed(0)) + 0.5
    eps = float(next((getattr(module, e) for e in EPS_NAMES if hasattr(module, e)), 1e-5))
    weight = getattr(module, "weight", None)
    bias = getattr(module, "bias", None)
    weight = torch.ones(d_model) if weight is None else weight.detach()
    shift = torch.zeros(d_model) if bias is None else bias.detach()
    with torch.inference_mode():
        wanted = module(rows)
        centred = rows - rows.mean(-1, keepdim=True)
        for kind, values in (("rmsnorm", rows), ("layernorm", centred)):
            unit = values * torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)
            for scale in (weight, 1 + weight):
                if torch.allclose(unit * scale + shift, wanted, rtol=1e-4, atol=1e-5):
                    stored = None if bias is None else shift.tolist()
                    return {"kind": kind, "eps": eps, "weight": scale.tolist(), "bias": stored}
    raise UserError(
        f"the final norm {type(module).__name__} computes neither RMSNorm nor LayerNorm; "
        "expected one of the two"
    )
