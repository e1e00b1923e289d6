"""The data files of one run: its table, the text that is searched, and its features by shard.

A page that is opened from a disk may load scripts, but may not fetch files. So each file is a
script that passes one JSON value on: ``vasae.put(KEY, VALUE);``. JSON is written in ASCII, so that
no character of a token can end a string, a line or a script.
"""

import base64
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vasae_jax.dictionary.claims import NO_NAME, UNTESTED
from vasae_jax.evaluation.examples.collect import BEFORE, EDGES, TOP
from vasae_jax.names.by_embedding import Names
from vasae_jax.report.run_report import RunReport
from vasae_jax.utils.files import json_text


def write_shard(data: Path, key: str, value: Any) -> None:
    """Write ``value`` as ``data``/KEY.js; KEY may have slashes. Returns once it is on the disk."""
    path = data / f"{key}.js"
    body = json_text(value, path, separators=(",", ":"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(f"vasae.put({json.dumps(key)},{body});\n")
        file.flush()
        os.fsync(file.fileno())


def column(array: np.ndarray, kind: str) -> dict[str, Any]:
    """An array as JSON: its type, its shape, its little-endian bytes in base64.

    The page reads the types u1, i1, u2, i2, i4 and f4.

    Raises:
        ValueError: an integer does not fit into ``kind``; a caller has chosen wrongly.
    """
    fits = array.astype(np.dtype(f"<{kind}"))
    if kind[0] != "f" and not np.array_equal(fits, array):
        raise ValueError(f"numbers do not fit into {kind}")
    data = base64.b64encode(np.ascontiguousarray(fits).tobytes()).decode()
    return {"type": kind, "shape": list(array.shape), "data": data}


def integers(array: np.ndarray) -> dict[str, Any]:
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


def write_run(data: Path, report: RunReport, matches: dict[str, Names]) -> None:
    """Write everything that ``report`` has under ``data``/KEY."""
    key = report.label.key
    write_shard(data, f"{key}/table", _table(report))
    write_shard(data, f"{key}/text", "\n".join(search_lines(report)))
    for number in range(math.ceil(report.dictionary.d_sae / SHARD)):
        part = slice(number * SHARD, (number + 1) * SHARD)
        write_shard(data, f"{key}/features-{number}", _features(report, matches, part))


def _table(report: RunReport) -> dict[str, Any]:
    """What the table shows, as columns over all features."""
    dictionary = report.dictionary
    first, last = used_bins(report.histogram)
    spark = sparkline(report.histogram[:, first:last])
    tested = dictionary.layer_verdict != UNTESTED
    return {
        "names": integers(np.where(tested, dictionary.layer_token_ids, NO_NAME)[:, :NAMES]),
        "name_hold": shares(dictionary.layer_hold[:, :NAMES]),
        "relation": column(dictionary.layer_relation, "u1"),
        "hold": column(np.where(dictionary.shown, dictionary.layer_hold[:, 0], 0), "f4"),
        "hold_together": column(dictionary.hold, "f4"),
        "shuffled": column(report.shuffled, "f4"),
        "verdict": column(dictionary.verdict, "i1"),
        "rate": column(dictionary.fire_rate, "f4"),
        "token": integers(dictionary.token_ids[:, 0]),
        "cosine": column(dictionary.cosines[:, 0], "f4"),
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


def search_lines(report: RunReport) -> Iterator[str]:
    """The text that is searched for each feature, in small letters.

    Its names other than those in the table, the tokens at which it fires in its examples, and the
    text of the strongest.
    """
    dictionary, examples = report.dictionary, report.examples
    words = [_typed(report.vocab.display(token)) for token in range(len(report.vocab))]
    for feature in range(dictionary.d_sae):
        fires_at = examples.tokens[feature, :, BEFORE]
        parts = [
            words[token]
            for token in dictionary.layer_token_ids[feature, NAMES:].tolist()
            if token >= 0
        ]
        parts += [words[token] for token in dictionary.token_ids[feature, :NAMES].tolist()]
        parts += [words[token] for token in dict.fromkeys(fires_at.tolist()) if token >= 0]
        parts += [
            "".join(words[token] for token in line if token >= 0)
            for line in examples.tokens[feature, :SEARCHED].tolist()
        ]
        yield "\t".join(parts).lower()


def _typed(token: str) -> str:
    """A printable token as one types it: a space for a space and for a line's end."""
    return token.replace("␣", " ").replace("\\x0a", " ")


def _features(report: RunReport, matches: dict[str, Names], part: slice) -> dict[str, Any]:
    """Everything about the features in ``part``, as columns."""
    dictionary, examples = report.dictionary, report.examples
    near, cofiring, lens = report.near, report.cofiring, report.logit_lens
    most = np.maximum(examples.value[part].max(axis=1), 1e-30)
    first, last = used_bins(report.histogram)
    return {
        "names": integers(dictionary.layer_token_ids[part]),
        "name_hold": column(dictionary.layer_hold[part], "f4"),
        "name_lift": column(dictionary.layer_lift[part], "f4"),
        "name_rows": column(dictionary.layer_rows[part], "i4"),
        "name_text_rows": column(dictionary.layer_text_rows[part], "i4"),
        "name_verdict": column(dictionary.layer_verdict[part], "i1"),
        "fired": column(dictionary.fired_rows[part, None], "i4"),
        "expected": column(dictionary.layer_expected[part], "f4"),
        "tokens": integers(dictionary.token_ids[part]),
        "cosines": column(dictionary.cosines[part], "f4"),
        "raw_tokens": integers(dictionary.raw_token_ids[part]),
        "raw_cosines": column(dictionary.raw_cosines[part], "f4"),
        "text": integers(examples.tokens[part]),
        "shade": shares(examples.shade[part].astype(np.float32) / most[:, None, None]),
        "value": column(examples.value[part], "f4"),
        "quantile": column(examples.quantile[part], "f4"),
        "histogram": column(report.histogram[part, first:last], "i4"),
        "near": integers(near.ids[part]),
        "near_cosines": column(near.cosines[part], "f4"),
        "together": integers(cofiring.ids[part]),
        "together_share": column(cofiring.share[part], "f4"),
        "raised": integers(lens.raised[part]),
        "raised_by": column(lens.raised_by[part], "f4"),
        "lowered": integers(lens.lowered[part]),
        "lowered_by": column(lens.lowered_by[part], "f4"),
        "matches": {
            key: {
                "ids": integers(names.ids[part, 0]),
                "cosines": column(names.cosines[part, 0], "f4"),
            }
            for key, names in matches.items()
        },
    }


def index_entry(report: RunReport, matched: list[str]) -> dict[str, Any]:
    """What the page must know of a run before any other of its files is loaded."""
    dictionary, metrics = report.dictionary, report.evaluation["unmasked"]
    meta = dictionary.meta
    first, last = used_bins(report.histogram)
    return {
        "key": report.label.key,
        "label": report.label.text,
        "model": report.label.model,
        "made_by": _made_by(meta["provenance"]),
        "layer": report.label.layer,
        "method": report.config.sae.method,
        "features": dictionary.d_sae,
        "firing": int((dictionary.fire_rate > 0).sum()),
        "k": dictionary.k,
        "shard": SHARD,
        "top": TOP,
        "tokens_before": BEFORE,
        "edges": EDGES[first : last + 1].tolist(),
        "vocab": report.vocab_key,
        "matched": matched,
        **{key: meta[key] for key in ("anchor", "fire_rate_over", "hold_over")},
        "split": report.split,
        "source": meta["provenance"]["text"]["source"],
        **{key: metrics[key] for key in ("rows", "variance_explained", "l0")},
        "scores": vars(report.scores[0]),
    }


def _made_by(origin: dict[str, Any]) -> str:
    """The library that trained the weights, and for how long or with which activation."""
    imported = origin.get("imported")
    if imported is None:
        return f"vasae_jax, {origin['step']} steps" if "step" in origin else "vasae_jax"
    return f"{imported['library']}, {imported['activation']}"
