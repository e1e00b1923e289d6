"""Neuronpedia: features, activations and labels, as its upload takes them.

Written alone. Each file is the body of one request to its ``feature/upload-batch``, of at most 128
features. A feature that never fires is left out there, since each must have an activation.
"""

from typing import Any

import numpy as np

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import common
from vasae_jax.interop.activity import Activity
from vasae_jax.interop.labels import label
from vasae_jax.utils.files import json_text

BATCH = 128
"""Features in a request, at most."""
LABEL = 512
"""Characters of a label, at most."""


def files(dictionary: Dictionary, activity: Activity) -> dict[str, bytes]:
    """The files' content by path."""
    site, model = common.site_and_model(dictionary)
    head = {"modelId": model.lower(), "source": f"{site.layer}-vasae-{dictionary.d_sae}"}
    firing = np.flatnonzero(activity.value.max(axis=1) > 0).tolist()
    batches = [firing[start : start + BATCH] for start in range(0, len(firing), BATCH)]
    content = {}
    for number, batch in enumerate(batches):
        body = head | {"features": [_feature(dictionary, activity, one) for one in batch]}
        name = f"batch-{number}.json"
        content[name] = json_text(body, name, ensure_ascii=False).encode(
            "utf-8", "backslashreplace"
        )
    return content


def _feature(dictionary: Dictionary, activity: Activity, feature: int) -> dict[str, Any]:
    text = label(dictionary.names(feature), LABEL)
    explained = {"text": text, "methodName": None, "modelName": None}
    return {
        "index": feature,
        "density": float(dictionary.fire_rate[feature]),
        "activations": _activations(activity, feature),
        "explanations": [explained] if text else [],
        "topLogits": _logits(activity, activity.raised[feature], activity.raised_by[feature]),
        "bottomLogits": _logits(activity, activity.lowered[feature], activity.lowered_by[feature]),
    }


def _activations(activity: Activity, feature: int) -> list[dict[str, Any]]:
    """Its examples, the strongest first; one that is of both kinds once."""
    known = {}
    for example in activity.examples(feature, slice(None)):
        known[tuple(example.tokens), tuple(example.values)] = example
    return [
        {
            "tokens": example.tokens,
            "values": example.values,
            "quantileMax": None,
            "quantileMin": None,
            "quantileFraction": None,
        }
        for example in known.values()
    ]


def _logits(activity: Activity, tokens: np.ndarray, by: np.ndarray) -> list[dict[str, Any]]:
    pairs = zip(tokens.tolist(), by.tolist(), strict=True)
    return [{"token": activity.text(token), "value": round(value, 4)} for token, value in pairs]
