"""EleutherAI delphi (0.1): latents and explanations, as its scorers read them.

Written alone: an SAE's weights are no part of it. ``latents/HOOKPOINT`` has the firings of every
feature on held-out text in files of some features each, and ``explanations`` a sentence for each
feature with a name that holds. ``LatentDataset`` reads the first; the second is what its pipeline
finds where no explainer shall run.
"""

import itertools
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import save

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import common
from vasae_jax.interop.labels import explanation
from vasae_jax.utils.errors import UserError

EXAMPLE = 32
"""Tokens of an example that delphi cuts; sequences are whole numbers of them."""
SPLITS = 5
"""Files that the features are divided into, as many as delphi makes."""


@dataclass(frozen=True)
class Latents:
    """The firings of features on S sequences of T tokens."""

    tokens: np.ndarray
    """int32 [S, T]"""
    locations: np.ndarray
    """int64 [n, 3]: sequence, place in it, feature"""
    activations: np.ndarray
    """float32 [n], above 0"""


def make_latents(
    tokens: np.ndarray,
    row: np.ndarray,
    feature: np.ndarray,
    activation: np.ndarray,
    *,
    kept: np.ndarray,
    longest: int,
) -> Latents:
    """Lay rows of text end to end and cut them into sequences, as delphi lays its own text.

    Args:
        tokens: int32 [R], of all rows in the order of the text.
        row: [n], the row of each firing.
        feature: [n].
        activation: [n].
        kept: bool [R], the rows that are laid out.
        longest: tokens of a sequence, at most; a whole number of examples, if it has one.

    Raises:
        UserError: the rows are less than one sequence.
    """
    length = longest - longest % EXAMPLE or longest
    count = int(kept.sum()) // length
    if not count:
        raise UserError(
            f"the held-out split has {int(kept.sum())} rows of text; expected {length} or more, "
            "one sequence for delphi"
        )
    place = np.cumsum(kept) - 1
    inside = kept[row] & (place[row] < count * length)
    at = place[row[inside]]
    order = np.lexsort((feature[inside], at))
    locations = np.stack([at // length, at % length, feature[inside]], axis=1)[order]
    text = tokens[kept][: count * length].reshape(count, length)
    return Latents(text, locations.astype(np.int64), activation[inside][order])


def hookpoint(dictionary: Dictionary) -> str:
    """The module whose output the dictionary reads, by its name in transformers."""
    site, _ = common.site_and_model(dictionary)
    if site.kind != "resid_post":
        return str(site)
    family = dictionary.meta["provenance"]["model"]["family"]
    return f"{'h' if family == 'gpt2' else 'layers'}.{site.layer}"


def files(dictionary: Dictionary, latents: Latents) -> dict[str, bytes]:
    """The files' content by path."""
    module = hookpoint(dictionary)
    content = {f"latents/{module}/config.json": common.json_bytes(_config(dictionary, latents))}
    for start, stop in _splits(dictionary.d_sae):
        name = f"latents/{module}/{start}_{stop - 1}.safetensors"
        content[name] = save(_split(latents, start, stop))
    for feature in range(dictionary.d_sae):
        if (text := explanation(dictionary.names(feature))) is not None:
            content[f"explanations/{module}_latent{feature}.txt"] = json.dumps(text).encode()
    return content


def _splits(features: int) -> list[tuple[int, int]]:
    bounds = np.linspace(0, features, min(SPLITS, features) + 1).astype(int).tolist()
    return list(itertools.pairwise(bounds))


def _split(latents: Latents, start: int, stop: int) -> dict[str, np.ndarray]:
    """What one file has: the firings of some features, and the text."""
    feature = latents.locations[:, 2]
    chosen = (feature >= start) & (feature < stop)
    locations = latents.locations[chosen] - [0, 0, start]
    small = max(len(latents.tokens), latents.tokens.shape[1], stop - start) <= 2**16
    return {
        "locations": locations.astype(np.uint16 if small else np.uint32),
        "activations": latents.activations[chosen],
        "tokens": latents.tokens.astype(np.int64),
    }


def _config(dictionary: Dictionary, latents: Latents) -> dict[str, Any]:
    """What delphi keeps beside latents: its settings of a cache, and the model's name."""
    _, model = common.site_and_model(dictionary)
    count, length = latents.tokens.shape
    return {
        "dataset_repo": dictionary.meta["provenance"]["text"]["source"],
        "dataset_split": "heldout",
        "dataset_name": "",
        "dataset_column": "text",
        "cache_ctx_len": length,
        "ctx_len": length,
        "n_tokens": count * length,
        "n_splits": len(_splits(dictionary.d_sae)),
        "model_name": model,
    }
