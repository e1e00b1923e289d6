"""A dictionary for readers: the table of its features and names, and its model card."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from vasae_jax.activations import JumpReLU, ReLU, TopK
from vasae_jax.dictionary.claims import (
    BIBTEX,
    CLAIM,
    HOLDS,
    LAYER_CLAIM,
    VERDICTS,
    VERDICTS_TOGETHER,
)
from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.dictionary.lookup import FeatureNames
from vasae_jax.utils.public import HUB_NAME
from vasae_jax.utils.shown import markdown, shown

Sort = Literal["hold", "fire_rate", "cosine", "feature"]
SORTS: tuple[Sort, ...] = get_args(Sort)
OFTEN = 0.001
"""Share of rows on which a feature fires that is shown as one of the best, at least: of one that
fires on few rows a name may hold all by chance."""
HEAD = (
    "feature",
    "fires",
    "",
    "first name",
    "holds",
    "precision",
    "verdict",
    "all hold",
    "other names (share held)",
    "by embedding",
)
STATED = ("fire_rate_over", "hold_over", "anchor")
"""What meta.json says in words, of the rows and the anchors."""
FEW_DOCUMENTS = 10
"""Documents below which it is said that evidence is weak."""


def name_table(
    dictionary: Dictionary,
    top: int = 5,
    features: int = 40,
    sort: Sort = "hold",
    verdict: str | None = None,
) -> str:
    """The ``features`` first features by ``sort``, with up to ``top`` tested layer names each.

    Features whose first name holds come before all others, except with ``feature``. Among them,
    ``hold``: most of whose activation that name holds; ``fire_rate``: that fire most often;
    ``cosine``: best aligned to an embedding. ``feature``: all by number. Only those of a
    ``verdict``, in words, if one is given.
    """
    words = VERDICTS_TOGETHER if dictionary.tested_together else VERDICTS
    verdicts = [words[number] for number in dictionary.verdict.tolist()]
    ordered = [f for f in _order(dictionary, sort) if verdict in (None, verdicts[f])]
    first = ordered[:features]
    lines = [HEAD, *(_line(dictionary, feature, top) for feature in first)]
    said = {name: shown(str(dictionary.meta[name])) for name in STATED}
    end = [
        f"{len(first)} of {dictionary.d_sae} features.",
        f"Fires: over the {said['fire_rate_over']}. Holds: over the {said['hold_over']}.",
        *(textwrap.fill(text, 90) for text in cautions(dictionary)),
        textwrap.fill(LAYER_CLAIM, 90),
        textwrap.fill(f"By embedding ({said['anchor']}): {CLAIM}", 90),
    ]
    return "\n".join([*aligned(lines), "", *end]) + "\n"


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of equally many cells as text, each column but the last as wide as its widest."""
    lines = [[shown(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]) - 1)]
    return [
        "  ".join([*(f"{text:<{w}}" for text, w in zip(line[:-1], widths, strict=True)), line[-1]])
        for line in lines
    ]


def cautions(dictionary: Dictionary) -> list[str]:
    """What to know of the evidence of all names before any is read."""
    texts = []
    if dictionary.tested_together:
        texts.append(
            "This dictionary is of a version before 5: the names of a feature were tested "
            "together, and the verdict is on all of them, not on the first."
        )
    documents = dictionary.meta.get("hold_documents")
    if documents is not None and documents < FEW_DOCUMENTS:
        texts.append(few_documents(documents))
    return texts


def few_documents(documents: int) -> str:
    """A warning that evidence comes from few documents."""
    return (
        f"Warning: the evidence is from {documents} documents. What is counted on fewer than "
        f"{FEW_DOCUMENTS} says little of other text."
    )


def _line(dictionary: Dictionary, feature: int, top: int) -> tuple[str, ...]:
    names = dictionary.names(feature)
    nearest = names.embedding[0]
    return (
        str(feature),
        f"{names.fire_rate:.3%}" if names.fire_rate > 0 else "never",
        names.relation,
        *first_cells(names),
        f"{names.hold:.0%}",
        names.layer_text(top, start=1),
        f"{nearest.text} {nearest.cosine:.2f}",
    )


def first_cells(names: FeatureNames) -> tuple[str, str, str, str]:
    """A feature's first tested name, what it holds, its precision and the verdict on it."""
    first = names.first
    if first is None:
        return "no tested name", "", "", names.verdict
    precision = "" if first.precision is None else f"{first.precision:.0%}"
    return first.text, f"{first.hold:.0%}", precision, names.verdict


def best_features(dictionary: Dictionary, count: int) -> list[int]:
    """The features that fire OFTEN and whose first name holds, most first; ``count`` at most."""
    often = (dictionary.fire_rate >= OFTEN) & (dictionary.verdict == HOLDS)
    return [feature for feature in _order(dictionary, "hold") if often[feature]][:count]


def _order(dictionary: Dictionary, sort: Sort) -> list[int]:
    if sort == "feature":
        return list(range(dictionary.d_sae))
    rate = dictionary.fire_rate
    first = dictionary.hold if dictionary.tested_together else dictionary.layer_hold[:, 0]
    by = {
        "hold": np.where(dictionary.shown, first, 0),
        "fire_rate": rate,
        "cosine": dictionary.cosines[:, 0],
    }
    keys = (dictionary.verdict != HOLDS, rate <= 0, -by[sort])
    order: list[int] = np.lexsort(keys[::-1]).tolist()
    return order


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
    layer, model = str(origin["layer"]), str(origin["model"]["id"])
    where = f"the output of block {layer} of {model}"
    parts = [
        _head(model),
        f"# A sparse autoencoder with named features: {markdown(model)}, layer {markdown(layer)}",
        _described(dictionary, markdown(where)),
        *_measured(dictionary.meta.get("metrics")),
        *_names(dictionary),
        _USE.format(d_in=dictionary.d_in, where=shown(where)),
        _CITATION,
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _head(model: str) -> str:
    """The hub's metadata, in YAML; every JSON string is one there too."""
    base = [f"base_model: {json.dumps(model)}"] if HUB_NAME.fullmatch(model) else []
    tags = ["tags:", "- sparse-autoencoder", "- interpretability", "- vasae"]
    return "\n".join(["---", "library_name: vasae-jax", *base, *tags, "---"])


def _described(dictionary: Dictionary, where: str) -> str:
    origin = dictionary.meta["provenance"]
    imported = origin.get("imported")
    by = f"trained with {markdown(str(imported['library'])) if imported else 'vasae_jax'}"
    text, context = (
        markdown(str(each)) for each in (origin["text"]["source"], origin["context_length"])
    )
    return "\n".join(
        [
            f"- {dictionary.d_sae} features of width {dictionary.d_in}; {_rule(dictionary)}; {by}",
            f"- rows: {where}, its residual stream before any final norm",
            f"- text: {text}; windows of {context} tokens",
            f"- made by {markdown(str(dictionary.meta['created_by']))}",
        ]
    )


def _rule(dictionary: Dictionary) -> str:
    """Which features fire, in words."""
    if isinstance(dictionary.activation, TopK):
        return f"the {dictionary.k} largest of a row fire"
    if isinstance(dictionary.activation, JumpReLU) and dictionary.threshold.any():
        return "features fire above their thresholds"
    relu = isinstance(dictionary.activation, JumpReLU | ReLU)
    return "ReLU" if relu else f"activation {dictionary.activation.kind}"


def _measured(metrics: Mapping[str, Any] | None) -> Iterator[str]:
    if not metrics:
        return
    figures = metrics["unmasked"]
    lines = [
        ("rows", f"{figures['rows']:,}"),
        ("variance explained", f"{figures['variance_explained']:.4f}"),
        ("features that fire on a row", f"{figures['l0']:.1f}"),
        ("features that fire on none", f"{figures['dead']:,} ({figures['dead_fraction']:.1%})"),
    ]
    yield f"## Measured on the {markdown(str(metrics['split']))} split"
    yield _table(("figure", "over unmasked rows"), lines)


def _names(dictionary: Dictionary) -> Iterator[str]:
    fires = dictionary.fire_rate > 0
    counts = [
        (word, f"{int(np.sum(fires & (dictionary.verdict == verdict))):,}")
        for verdict, word in (VERDICTS_TOGETHER if dictionary.tested_together else VERDICTS).items()
    ]
    yield "## Names, and what they hold"
    yield textwrap.fill(LAYER_CLAIM, 100)
    yield textwrap.fill(CLAIM, 100)
    yield from cautions(dictionary)
    of = "names" if dictionary.tested_together else "the first name"
    over = markdown(str(dictionary.meta["hold_over"]))
    yield f"Verdicts on {of} over the {over}, of features that fire:"
    yield _table(("verdict", "features"), counts)
    yield f"Of those that fire on at least {OFTEN:.1%} of the rows, the ones that hold most:"
    yield _table(
        ("feature", "fires", "relation", "first name", "holds", "precision", "verdict", "others"),
        [_feature(dictionary, feature) for feature in best_features(dictionary, SHOWN)],
    )


def _feature(dictionary: Dictionary, feature: int) -> tuple[str, ...]:
    names = dictionary.names(feature)
    return (
        str(feature),
        f"{names.fire_rate:.2%}",
        names.relation,
        markdown(first_cells(names)[0]),
        *first_cells(names)[1:],
        markdown(names.layer_text(3, start=1)),
    )


def _table(head: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    rows = [head, ("---",) * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
