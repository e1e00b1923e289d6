"""What is true of every dictionary beyond the shapes of its arrays: codes, token ids, metadata.

Who looks into a dictionary goes by these: a code that is no verdict, an id without a string or a
text where a number should be would fail there, out of sight of the file.
"""

import reprlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from vasae_jax.dictionary.claims import NO_NAME, RELATIONS, VERDICTS, VERDICTS_TOGETHER
from vasae_jax.dictionary.dictionary import TESTED_EACH, Dictionary
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.typed import fits, in_words

META: Mapping[str, Any] = {
    "created_by": str,
    "anchor": str,
    "fire_rate_over": str,
    "hold_over": str,
    "provenance.model.id": str,
    "provenance.site": str,
    "provenance.layer": int,
    "provenance.bos": bool,
    "provenance.context_length": int,
    "provenance.text.source": str,
}
"""The keys of meta.json that every dictionary has from version TESTED_EACH on, and their types."""
OPTIONAL: Mapping[str, Any] = {
    "hold_documents": int | None,
    "provenance.imported.library": str,
    "metrics.split": str,
    "metrics.unmasked.rows": int,
    "metrics.unmasked.variance_explained": float,
    "metrics.unmasked.l0": float,
    "metrics.unmasked.dead": int,
    "metrics.unmasked.dead_fraction": float,
}
"""Others that are read, where their section is there and not null."""


def check_meta(meta: Mapping[str, Any], where: object) -> None:
    """Raise UserError unless what is read of a meta.json is of its type."""
    for key, hint in {**META, **OPTIONAL}.items():
        found = _lookup(meta, key)
        section = key.rpartition(".")[0]
        needed = key in META and meta["version"] >= TESTED_EACH
        if not found and (needed or (key in OPTIONAL and section and any(_lookup(meta, section)))):
            raise UserError(f"{where} lacks {key}; expected {in_words(hint)}")
        if found and not fits(found[0], hint):
            raise UserError(
                f"{where} has {key} {reprlib.repr(found[0])}; expected {in_words(hint)}"
            )


def _lookup(meta: Any, key: str) -> list[Any]:
    """The value of a dotted key, or nothing where one of its parts is not there."""
    for name in key.split("."):
        if not isinstance(meta, dict) or name not in meta:
            return []
        meta = meta[name]
    return [meta]


def check_content(dictionary: Dictionary, where: str) -> None:
    """Raise UserError for codes and ids that mean nothing, and for a dictionary of no features."""
    for name, wrong, expected in _misfits(dictionary):
        if wrong:
            raise UserError(f"{where} has {name} that cannot be; expected {expected}")


def _misfits(dictionary: Dictionary) -> Iterator[tuple[str, bool, str]]:
    """The name of each part, whether something is wrong with it, and what it should be."""
    ids, layer = dictionary.token_ids, dictionary.layer_token_ids
    sizes = (*dictionary.W_dec.shape, ids.shape[1], layer.shape[1])
    yield f"sizes {sizes}", 0 in sizes, "features with a width, and at least one name of each kind"
    most = dictionary.activation.max_active(dictionary.d_sae)
    wrong = most is not None and not 1 <= most <= dictionary.d_sae
    yield f"a k of {most}", wrong, f"1 to {dictionary.d_sae}"
    yield "a token id", bool((ids < 0).any() or (layer < NO_NAME).any()), "ids from 0"
    named = layer != NO_NAME
    yield "a gap between layer names", bool((named[:, 1:] > named[:, :-1]).any()), "none"
    yield "a relation", _others(dictionary.layer_relation, range(len(RELATIONS))), "0 or 1"
    words = VERDICTS_TOGETHER if dictionary.tested_together else VERDICTS
    for name, known in (
        ("verdict", words),
        ("verdict_together", words),
        ("layer_verdict", VERDICTS),
    ):
        wrong = _others(getattr(dictionary, name), known)
        yield f"a {name}", wrong, f"one of {', '.join(map(str, known))}"


def _others(codes: np.ndarray, known: Collection[int]) -> bool:
    return not np.isin(codes, list(known)).all()


def used_tokens(dictionary: Dictionary) -> set[int]:
    """The token ids of all names that have a string."""
    ids = (dictionary.token_ids, dictionary.layer_token_ids)
    return set(np.unique(np.concatenate([part.reshape(-1) for part in ids])).tolist()) - {NO_NAME}
