"""The files of one panel: its table, the text that is searched, and its features by shard."""

import base64
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.evaluation.examples.collect import BEFORE, EDGES, TOP
from vasae_jax.names.by_embedding import Names
from vasae_jax.report.panel import Panel

# Data files of the page: each is a script that hands over one JSON value.
#
# A page that is opened from a disk may load scripts, but may not fetch files. So a value is
# written as ``vasae.put(KEY, VALUE);``. JSON is written in ASCII, so that no character of a token
# can end a string, a line or a script.


TYPES = {"u1", "i1", "u2", "i2", "i4", "f4"}
"""Types of a column as the page reads them, little-endian."""


def write_shard(data: Path, key: str, value: Any) -> None:
    """Write ``value`` as ``data``/KEY.js; KEY may have slashes. Returns once it is on the disk."""
    body = json.dumps(value, allow_nan=False, separators=(",", ":"))
    path = data / f"{key}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(f"vasae.put({json.dumps(key)},{body});\n")
        file.flush()
        os.fsync(file.fileno())


def column(array: np.ndarray, kind: str) -> dict[str, Any]:
    """An array as JSON: its type (one of TYPES), its shape, its bytes in base64.

    Raises:
        ValueError: an integer does not fit into ``kind``; a caller has chosen wrongly.
    """
    fits = array.astype(np.dtype(f"<{kind}"))
    if kind[0] != "f" and not np.array_equal(fits, array):
        raise ValueError(f"numbers do not fit into {kind}")
    data = base64.b64encode(np.ascontiguousarray(fits).tobytes()).decode()
    return {"type": kind, "shape": list(array.shape), "data": data}


def whole(array: np.ndarray) -> dict[str, Any]:
    """Integers from -1 as a column of the smallest type that holds them, one added to each."""
    largest = int(array.max(initial=-1)) + 1
    kind = "u1" if largest < 2**8 else "u2" if largest < 2**16 else "i4"
    return {**column(array.astype(np.int64) + 1, kind), "less": 1}


def shares(array: np.ndarray) -> dict[str, Any]:
    """Numbers from 0 to 1 as a column of bytes, to the nearest of 255."""
    return column(np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8), "u1")


SHARD = 64
"""Features in one file."""
NAMES = 3
"""Layer names shown in the table, and names by embedding searched."""
SPARK = 16
"""Columns of a density's sparkline at most."""
SEARCHED = 2
"""Strongest examples whose text is searched."""


def write_panel(data: Path, panel: Panel, matches: dict[str, Names]) -> None:
    """Write everything of ``panel`` under ``data``/KEY."""
    key = panel.label.key
    write_shard(data, f"{key}/table", _table(panel))
    write_shard(data, f"{key}/text", "\n".join(search_lines(panel)))
    for number in range(math.ceil(panel.dictionary.d_sae / SHARD)):
        part = slice(number * SHARD, (number + 1) * SHARD)
        write_shard(data, f"{key}/features-{number}", _features(panel, matches, part))


def _table(panel: Panel) -> dict[str, Any]:
    """Columns over all features."""
    found = panel.dictionary
    first, last = used_bins(panel.histogram)
    spark = sparkline(panel.histogram[:, first:last])
    return {
        "names": whole(found.layer_token_ids[:, :NAMES]),
        "name_hold": shares(found.layer_hold[:, :NAMES]),
        "relation": column(found.layer_relation, "u1"),
        "hold": column(found.hold, "f4"),
        "shuffled": column(panel.shuffled, "f4"),
        "verdict": column(found.verdict, "i1"),
        "rate": column(found.fire_rate, "f4"),
        "token": whole(found.token_ids[:, 0]),
        "cosine": column(found.cosines[:, 0], "f4"),
        "spark": shares(spark),
    }


def used_bins(histogram: np.ndarray) -> tuple[int, int]:
    """The first bin that any feature has firings in, and one past the last."""
    used = np.flatnonzero(histogram.sum(axis=0))
    return (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)


def sparkline(histogram: np.ndarray) -> np.ndarray:
    """Each feature's histogram [F, n] in at most SPARK columns, its highest 1."""
    size = math.ceil(histogram.shape[1] / SPARK)
    padded = np.pad(histogram, ((0, 0), (0, -histogram.shape[1] % size)))
    columns = padded.reshape(len(histogram), -1, size).sum(axis=2)
    most = columns.max(axis=1, keepdims=True)
    scaled: np.ndarray = columns / np.where(most == 0, 1, most)
    return scaled


def search_lines(panel: Panel) -> Iterator[str]:
    """What is searched of each feature beside the layer names in the table, in small letters.

    Its other names, the tokens at which it fires in its examples, and the text of the strongest.
    """
    found, shown = panel.dictionary, panel.examples
    words = [_spaced(panel.vocab.display(token)) for token in range(len(panel.vocab))]
    for feature in range(found.d_sae):
        fires_at = shown.tokens[feature, :, BEFORE]
        parts = [words[token] for token in found.layer_token_ids[feature, NAMES:].tolist()]
        parts += [words[token] for token in found.token_ids[feature, :NAMES].tolist()]
        parts += [words[token] for token in dict.fromkeys(fires_at.tolist()) if token >= 0]
        parts += [
            "".join(words[token] for token in line if token >= 0)
            for line in shown.tokens[feature, :SEARCHED].tolist()
        ]
        yield "\t".join(parts).lower()


def _spaced(shown: str) -> str:
    """A token as one types it: a space is a space, a line's end too."""
    return shown.replace("␣", " ").replace("\\x0a", " ")


def _features(panel: Panel, matches: dict[str, Names], part: slice) -> dict[str, Any]:
    """Everything about the features in ``part``, as columns."""
    found, shown = panel.dictionary, panel.examples
    most = np.maximum(shown.value[part].max(axis=1), 1e-30)
    first, last = used_bins(panel.histogram)
    return {
        "names": whole(found.layer_token_ids[part]),
        "name_hold": column(found.layer_hold[part], "f4"),
        "name_lift": column(found.layer_lift[part], "f4"),
        "name_rows": column(found.layer_rows[part], "i4"),
        "expected": column(found.layer_expected[part], "f4"),
        "tokens": whole(found.token_ids[part]),
        "cosines": column(found.cosines[part], "f4"),
        "raw_tokens": whole(found.raw_token_ids[part]),
        "raw_cosines": column(found.raw_cosines[part], "f4"),
        "text": whole(shown.tokens[part]),
        "shade": shares(shown.shade[part].astype(np.float32) / most[:, None, None]),
        "value": column(shown.value[part], "f4"),
        "quantile": column(shown.quantile[part], "f4"),
        "histogram": column(panel.histogram[part, first:last], "i4"),
        **_relatives(panel, part),
        "matches": {
            key: {"ids": whole(names.ids[part, 0]), "cosines": column(names.cosines[part, 0], "f4")}
            for key, names in matches.items()
        },
    }


def _relatives(panel: Panel, part: slice) -> dict[str, Any]:
    near, together, head = panel.near, panel.together, panel.head
    return {
        "near": whole(near.ids[part]),
        "near_cosines": column(near.cosines[part], "f4"),
        "together": whole(together.ids[part]),
        "together_share": column(together.share[part], "f4"),
        "raised": whole(head.raised[part]),
        "raised_by": column(head.raised_by[part], "f4"),
        "lowered": whole(head.lowered[part]),
        "lowered_by": column(head.lowered_by[part], "f4"),
    }


def panel_index(panel: Panel, matched: list[str]) -> dict[str, Any]:
    """What the page must know of a panel before any other file of it is loaded."""
    found, figures = panel.dictionary, panel.evaluation["unmasked"]
    first, last = used_bins(panel.histogram)
    return {
        "key": panel.label.key,
        "label": panel.label.text,
        "model": panel.label.model,
        "made": _made(found.meta["provenance"]),
        "layer": panel.label.layer,
        "method": panel.config.sae.method,
        "features": found.d_sae,
        "firing": int((found.fire_rate > 0).sum()),
        "k": found.k,
        "shard": SHARD,
        "top": TOP,
        "at": BEFORE,
        "edges": EDGES[first : last + 1].tolist(),
        "vocab": panel.vocab_key,
        "matched": matched,
        "anchor": found.meta["anchor"],
        "fire_rate_over": found.meta["fire_rate_over"],
        "hold_over": found.meta["hold_over"],
        "split": panel.split,
        "source": found.meta["provenance"]["text"]["source"],
        "rows": figures["rows"],
        "variance_explained": figures["variance_explained"],
        "l0": figures["l0"],
        "held": vars(panel.held[0]),
    }


def _made(origin: dict[str, Any]) -> str:
    """Which training made the weights."""
    imported = origin.get("imported")
    if imported is None:
        return f"vasae_jax, {origin['step']} steps" if "step" in origin else "vasae_jax"
    return f"{imported['library']}, {imported['activation']}"
