"""The model card of a dictionary: what it is, what it measures, what its names claim."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vasae_jax.dictionary.table import OFTEN, best_features, layer_names_text
from vasae_jax.named.dictionary import Dictionary
from vasae_jax.named.words import RELATIONS, VERDICTS
from vasae_jax.naming.cite import BIBTEX
from vasae_jax.naming.claim import CLAIM, LAYER_CLAIM

SHOWN = 20
"""Features in the card's table."""

_USE = """\
## Use

```python
import vasae_jax as vj  # NumPy is enough

sae = vj.load("FOLDER")
z = sae.encode(rows)  # rows float32 [n, {d_in}]: {where}
x_hat = sae.decode(z)
print(sae.names(0))
for found in sae.search("street"):
    print(found)
```

The weights are in SAELens' layout too: `sae_lens.SAE.load_from_disk("FOLDER")`.
"""

_CITATION = f"## Citation\n\nThe names follow VASAE:\n\n```bibtex\n{BIBTEX}\n```"


def model_card(dictionary: Dictionary) -> str:
    """README.md in Markdown, with the hub's metadata at its head."""
    origin = dictionary.meta["provenance"]
    layer, model = origin["layer"], origin["model"]["id"]
    where = f"the output of block {layer} of {model}"
    parts = [
        _head(model),
        f"# A sparse autoencoder with named features: {model}, layer {layer}",
        _described(dictionary, where),
        *_measured(dictionary.meta.get("metrics")),
        *_names(dictionary),
        _USE.format(d_in=dictionary.d_in, where=where),
        _CITATION,
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _head(model: str) -> str:
    base = [f"base_model: {model}"] if model.count("/") == 1 else []
    tags = ["tags:", "- sparse-autoencoder", "- interpretability", "- vasae"]
    return "\n".join(["---", "library_name: vasae-jax", *base, *tags, "---"])


def _described(dictionary: Dictionary, where: str) -> str:
    rule = f"the {dictionary.k} largest of a row fire"
    if dictionary.k == dictionary.d_sae:
        rule = "features fire above their thresholds" if dictionary.threshold.any() else "ReLU"
    origin = dictionary.meta["provenance"]
    imported = origin.get("imported")
    by = f"trained with {imported['library']}" if imported else "trained with vasae_jax"
    return "\n".join(
        [
            f"- {dictionary.d_sae} features of width {dictionary.d_in}; {rule}; {by}",
            f"- rows: {where}, its residual stream before any final norm",
            f"- text: {origin['text']['source']}; windows of {origin['context_length']} tokens",
            f"- made by {dictionary.meta['created_by']}",
        ]
    )


def _measured(metrics: Mapping[str, Any] | None) -> Iterator[str]:
    if not metrics:
        return
    figures = metrics["unmasked"]
    lines = [
        ("rows", f"{figures['rows']:,}"),
        ("variance explained", f"{figures['variance_explained']:.4f}"),
        ("features that fire on a row", f"{figures['l0']:.1f}"),
        ("features that fire on none", f"{figures['dead']:,} ({figures['dead_share']:.1%})"),
    ]
    yield f"## Measured on the {metrics['split']} split"
    yield _table(("figure", "over unmasked rows"), lines)


def _names(dictionary: Dictionary) -> Iterator[str]:
    fires = dictionary.fire_rate > 0
    counts = [
        (words, f"{int(np.sum(fires & (dictionary.verdict == verdict))):,}")
        for verdict, words in VERDICTS.items()
    ]
    yield "## Names, and what they hold"
    yield _wrapped(LAYER_CLAIM)
    yield _wrapped(CLAIM)
    yield f"Verdicts over the {dictionary.meta['hold_over']}, of features that fire:"
    yield _table(("verdict", "features"), counts)
    yield f"Of those that fire on at least {OFTEN:.1%} of the rows, the ones that hold most:"
    yield _table(
        ("feature", "fires", "relation", "names (share held)", "held", "verdict"),
        [_feature(dictionary, feature) for feature in best_features(dictionary, SHOWN)],
    )


def _feature(dictionary: Dictionary, feature: int) -> tuple[str, ...]:
    names = layer_names_text(dictionary, feature, 3)
    return (
        str(feature),
        f"{dictionary.fire_rate[feature]:.2%}",
        RELATIONS[dictionary.layer_relation[feature]],
        "".join(f"\\{c}" if c in "\\`*_{}[]<>#|" else c for c in names),
        f"{dictionary.hold[feature]:.0%}",
        VERDICTS[int(dictionary.verdict[feature])],
    )


def _table(head: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    rows = [head, ("---",) * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 100))
