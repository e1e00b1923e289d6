"""What the layouts share: the encoder bias folded, layer names, a directory's files written."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.named.dictionary import Dictionary
from vasae_jax.named.words import RELATIONS, VERDICTS
from vasae_jax.naming.claim import LAYER_CLAIM
from vasae_jax.system.errors import UserError
from vasae_jax.system.files import atomic_file, refuse_existing


def encoder_bias(dictionary: Dictionary, *, taken: float) -> np.ndarray:
    """b_enc for a library that encodes x - ``taken`` * b_dec; float32 [d_sae].

    (x - p b_dec) W + b = (x - taken b_dec) W + (b + (taken - p) b_dec W), so the
    preactivations stay the same.
    """
    share = taken - dictionary.pre_bias
    if share == 0:
        return dictionary.b_enc
    moved = dictionary.b_dec.astype(np.float64) @ dictionary.W_enc.astype(np.float64)
    return (dictionary.b_enc + share * moved).astype(np.float32)


def refuse_topk(dictionary: Dictionary, layout: str) -> None:
    """Raise UserError for a dictionary that has no thresholds."""
    if dictionary.k < dictionary.d_sae:
        raise UserError(
            f"the dictionary keeps the {dictionary.k} largest of a row and layout {layout} has "
            "only thresholds; expected one whose thresholds decide, or a run to find one on"
        )


def layer_and_model(dictionary: Dictionary) -> tuple[int, str]:
    """The layer and the model id that the rows come from."""
    provenance = dictionary.meta["provenance"]
    return int(provenance["layer"]), str(provenance["model"]["id"])


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
