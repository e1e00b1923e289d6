"""EleutherAI sparsify: ``cfg.json`` and ``sae.safetensors``, one folder a hookpoint.

Its TopK is relu, then the k largest. The folder's name is the module whose output it reads.
"""

from pathlib import Path

from vasae_jax.extract.hooks import layer_of_hook
from vasae_jax.foreign.files import need, read_json, read_safetensors, whole
from vasae_jax.foreign.record import ForeignSAE, make_foreign
from vasae_jax.system.errors import UserError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def is_here(folder: Path) -> bool:
    """Whether ``folder`` holds one."""
    return (folder / WEIGHTS).is_file()


def read(folder: Path) -> ForeignSAE:
    """The SAE in ``folder``; UserError for one that cannot be kept exactly."""
    where = folder / CONFIG
    config = read_json(where)
    activation = config.get("activation", "topk")
    if activation != "topk":
        raise UserError(f"{where} has activation {activation!r}; expected topk")
    for key in ("transcode", "skip_connection"):
        if config.get(key):
            raise UserError(
                f"{where} has {key} true, a transcoder; expected an SAE of one place's rows"
            )
    tensors = read_safetensors(folder / WEIGHTS)
    need(tensors, ("encoder.weight", "encoder.bias", "W_dec", "b_dec"), folder / WEIGHTS)
    weights = {
        "W_enc": tensors["encoder.weight"],
        "b_enc": tensors["encoder.bias"],
        "W_dec": tensors["W_dec"],
        "b_dec": tensors["b_dec"],
    }
    return make_foreign(
        str(folder),
        weights,
        library="sparsify",
        activation="topk",
        k=whole(config.get("k")),
        pre_bias=1.0,
        layer=_layer(folder),
    )


def _layer(folder: Path) -> int | None:
    name = folder.resolve().name
    return layer_of_hook(name, folder) if name.startswith(("layers.", "h.")) else None
