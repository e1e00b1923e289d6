"""What the layouts of all libraries share: reading their files, folding biases, layer names."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.dictionary.claims import LAYER_CLAIM
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.dictionary.lookup import LayerName
from vasae_jax.lm.hf_weights import torch_tensors
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.read_json import read_json_object
from vasae_jax.utils.safetensors_files import read_safetensors
from vasae_jax.utils.sizes import read_npz


def read_config(path: Path) -> dict[str, Any]:
    """The settings of an SAE, a JSON object; UserError where the file holds none."""
    return read_json_object(path, "the settings of an SAE")


def get_text(config: Mapping[str, Any], key: str) -> str:
    """A setting that is text; empty where it is something else or not there."""
    value = config.get(key)
    return value if isinstance(value, str) else ""


def get_table(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A setting that is an object; empty where it is something else or not there."""
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def as_int(value: Any) -> int | None:
    """A whole number (5.0 is one), or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a ``.safetensors``, ``.npz`` or torch file, floats or whole numbers.

    Raises:
        UserError: the file is not there or damaged, it has other numbers or scales activations, or
            torch is needed and not installed.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; expected the weights of an SAE")
    try:
        tensors: dict[str, np.ndarray] = _READERS[path.suffix](path)
    except _DAMAGED as error:
        raise UserError(f"{path} cannot be read as {path.suffix} ({error})") from error
    for name, value in tensors.items():
        if value.dtype.name not in _FLOATS and value.dtype.kind not in "iu":
            raise UserError(
                f"{path} holds tensor {name} of type {value.dtype}; expected floats or whole "
                "numbers"
            )
    if not np.allclose(tensors.pop("scaling_factor", np.ones(1)), 1):
        raise UserError(f"{path} scales its activations; expected scaling_factor 1")
    return tensors


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    return read_npz(path, compressed=True)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    return {
        name: (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        for name, tensor in torch_tensors(path).items()
    }


_MATRICES = ("W_enc", "W_dec")
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_READERS: dict[str, Any] = {".safetensors": read_safetensors, ".npz": _read_npz, ".pt": _read_torch}
_DAMAGED = (EOFError, KeyError, OSError, TypeError, ValueError)


def pick(
    tensors: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    where: Path,
    ignored: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """The weights that a library calls by the keys of ``names``, by our names, as float32.

    Raises:
        UserError: one is missing, of whole numbers, which mean something only with a scale, or
            of another shape than a matrix has; or there is another that is not ``ignored``.
    """
    for name in names:
        if name not in tensors:
            raise UserError(f"{where} has no tensor {name}; found {', '.join(sorted(tensors))}")
        if tensors[name].dtype.name not in _FLOATS:
            raise UserError(
                f"{where} holds tensor {name} of type {tensors[name].dtype}; expected one of "
                f"{', '.join(_FLOATS)}"
            )
        if names[name] in _MATRICES and (tensors[name].ndim != 2 or not tensors[name].size):
            raise UserError(
                f"{where} holds tensor {name} of shape {tensors[name].shape}; expected two axes "
                "of features and width"
            )
    if unknown := sorted(set(tensors) - set(names) - set(ignored)):
        raise UserError(
            f"{where} has a tensor {unknown[0]}, which is not known here and may change what the "
            f"SAE computes; expected {', '.join(names)}"
        )
    with np.errstate(over="ignore"):  # what is beyond float32 is refused as not finite
        return {ours: tensors[theirs].astype(np.float32) for theirs, ours in names.items()}


def encoder_bias(dictionary: Dictionary, pre_bias: float) -> np.ndarray:
    """b_enc for a library that encodes x - ``pre_bias`` * b_dec; float32 [d_sae].

    With p the dictionary's own, (x - p b_dec) W + b = (x - pre_bias b_dec) W + (b + (pre_bias - p)
    b_dec W), so the preactivations stay the same.
    """
    share = pre_bias - dictionary.pre_bias
    if share == 0:
        return dictionary.b_enc
    moved = dictionary.b_dec.astype(np.float64) @ dictionary.W_enc.astype(np.float64)
    return (dictionary.b_enc + share * moved).astype(np.float32)


def check_activation(dictionary: Dictionary, layout: str, kinds: Collection[str]) -> None:
    """Raise UserError unless ``layout`` can hold the dictionary's activation, one of ``kinds``."""
    kind = dictionary.activation.kind
    if kind in kinds:
        return
    hint = ", or a run, on whose rows one threshold is found" if kind == "topk" else ""
    raise UserError(
        f"the dictionary has activation {kind} and layout {layout} holds only "
        f"{' and '.join(kinds)}; expected another layout{hint}"
    )


def site_and_model(dictionary: Dictionary) -> tuple[Site, str]:
    """The site and the model id that the rows come from."""
    provenance = dictionary.meta["provenance"]
    site = Site(int(provenance["layer"]), str(provenance["site"]))
    return site, str(provenance["model"]["id"])


def layer_naming(dictionary: Dictionary) -> dict[str, Any]:
    """Every feature's first tested layer name with its own figures: lists of d_sae.

    Where no name of a feature is tested, its name and figures are None. ``hold_together`` is of all
    its names.
    """
    known = [dictionary.names(feature) for feature in range(dictionary.d_sae)]

    def of_first(figure: Callable[[LayerName], Any]) -> list[Any]:
        return [None if names.first is None else figure(names.first) for names in known]

    def rounded(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return {
        "claim": LAYER_CLAIM,
        "name": of_first(lambda first: first.text),
        "relation": [names.relation for names in known],
        "hold": of_first(lambda first: rounded(first.hold)),
        "precision": of_first(lambda first: rounded(first.precision)),
        "recall": of_first(lambda first: rounded(first.recall)),
        "verdict": [names.verdict for names in known],
        "hold_together": [round(names.hold, 4) for names in known],
        "verdict_together": [names.verdict_together for names in known],
    }


def json_bytes(value: Any) -> bytes:
    """Indented JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace")
