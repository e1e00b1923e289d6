"""What the libraries' layouts share: reading their files, folding biases, writing."""

import contextlib
import json
import os
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

# Registers bfloat16 with NumPy, which the safetensors package asks for by name.
import ml_dtypes  # noqa: F401
import numpy as np
import safetensors
from safetensors.numpy import load_file

from vasae_jax.dictionary.claims import LAYER_CLAIM, RELATIONS, VERDICTS
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.lm.hf_weights import torch_tensors
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import atomic_file, refuse_existing


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        UserError: the file is not there, or holds something else.
    """
    if not path.is_file():
        raise UserError(f"{path} is not there; expected the settings of an SAE")
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); expected the settings of an SAE") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}; expected the settings of an SAE")
    return value


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


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors as float32; UserError where the file is not there or damaged."""
    _require_file(path)
    try:
        return {name: value.astype(np.float32) for name, value in load_file(path).items()}
    except (safetensors.SafetensorError, ValueError, TypeError, OSError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error})") from error


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays as float32; UserError where the file is not there or damaged."""
    _require_file(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name].astype(np.float32) for name in file.files}
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as an .npz file ({error})") from error


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """A state dict as float32; UserError where the file is not there or cannot be read."""
    _require_file(path)
    return {name: tensor.float().numpy() for name, tensor in torch_tensors(path).items()}


def pick(
    tensors: Mapping[str, np.ndarray], names: Mapping[str, str], where: Path
) -> dict[str, np.ndarray]:
    """The tensors that a library calls by the keys of ``names``, by our names, its values.

    Raises:
        UserError: one is missing.
    """
    for name in names:
        if name not in tensors:
            raise UserError(f"{where} has no tensor {name}; found {', '.join(sorted(tensors))}")
    return {ours: tensors[theirs] for theirs, ours in names.items()}


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path} is not there; expected the weights of an SAE")


# Writing.


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
    """Every feature's first layer name and what is known of its names: lists of d_sae."""
    return {
        "claim": LAYER_CLAIM,
        "name": [
            dictionary.tokens[token][1] for token in dictionary.layer_token_ids[:, 0].tolist()
        ],
        "relation": [RELATIONS[relation] for relation in dictionary.layer_relation.tolist()],
        "hold": [round(hold, 4) for hold in dictionary.hold.tolist()],
        "verdict": [VERDICTS[verdict] for verdict in dictionary.verdict.tolist()],
    }


def json_bytes(value: Any) -> bytes:
    """Indented JSON."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def write_files(
    directory: str | os.PathLike[str], content: Mapping[str, bytes], overwrite: bool
) -> tuple[Path, ...]:
    """Write files by name into ``directory``, all or (before the first rename) none.

    Raises:
        UserError: one exists (and ``overwrite`` is False) or the place cannot be written.
    """
    paths = [Path(directory) / name for name in content]
    for path in paths:
        refuse_existing(path, overwrite=overwrite)
    with contextlib.ExitStack() as stack:
        for path, data in zip(paths, content.values(), strict=True):
            file = stack.enter_context(atomic_file(path))
            file.write(data)
            file.flush()
    return tuple(paths)
