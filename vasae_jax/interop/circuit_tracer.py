"""circuit-tracer (0.5): features as its page shows them, and a label for each that has a name.

Written alone. ``features/INDEX.json`` is a feature, under the number that its graphs give it, which
is made of layer and feature. ``labels.json`` has pairs of such a number and a label.
"""

from typing import Any

import numpy as np

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.interop import common
from vasae_jax.interop.activity import Activity, Example
from vasae_jax.interop.labels import short_label
from vasae_jax.utils.files import json_text

FEATURES, LABELS = "features", "labels.json"


def pair(layer: int, feature: int) -> int:
    """Cantor's number of a layer and a feature, by which graphs call the feature."""
    return (layer + feature) * (layer + feature + 1) // 2 + feature


def files(dictionary: Dictionary, activity: Activity) -> dict[str, bytes]:
    """The files' content by path."""
    site, model = common.site_and_model(dictionary)
    of_fire = np.flatnonzero(activity.value.max(axis=1) > 0).tolist()
    content = {}
    for feature in of_fire:
        shown = {"transcoder_id": f"{model}/{site}"} | _feature(dictionary, activity, feature)
        name = f"{FEATURES}/{pair(site.layer, feature)}.json"
        content[name] = json_text(shown, name, ensure_ascii=False).encode(
            "utf-8", "backslashreplace"
        )
    labels = [(feature, short_label(dictionary.names(feature))) for feature in of_fire]
    pairs = [[str(pair(site.layer, feature)), text] for feature, text in labels if text]
    return content | {LABELS: common.json_bytes(pairs)}


def _feature(dictionary: Dictionary, activity: Activity, feature: int) -> dict[str, Any]:
    value = activity.value[feature]
    parts = {"Top": slice(0, activity.top), "Sample": slice(activity.top, None)}
    counts = activity.histogram[feature]
    return {
        "index": feature,
        "examples_quantiles": [
            {"quantile_name": name, "examples": list(map(_example, found))}
            for name, part in parts.items()
            if (found := list(activity.examples(feature, part)))
        ],
        "top_logits": [activity.text(token) for token in activity.raised[feature].tolist()],
        "bottom_logits": [activity.text(token) for token in activity.lowered[feature].tolist()],
        "act_min": 0.0,
        "act_max": float(value.max()),
        "quantile_values": [float(one) for one in value[activity.top :] if one > 0],
        "histogram": (counts / max(int(counts.sum()), 1)).tolist(),
        "activation_frequency": float(dictionary.fire_rate[feature]),
    }


def _example(example: Example) -> dict[str, Any]:
    return {
        "tokens_acts_list": example.values,
        "train_token_ind": example.fires_at,
        "is_repeated_datapoint": False,
        "tokens": example.tokens,
    }
