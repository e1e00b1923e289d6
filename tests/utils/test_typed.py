"""Whether values are of the types that dataclasses state."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.typed import check_fields, fits


@dataclass(frozen=True)
class Inner:
    size: int = 1
    rate: float | None = None


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    kind: Literal["a", "b"] = "a"
    parts: tuple[Inner, ...] = ()
    digests: Mapping[str, str] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("value", "hint", "answer"),
    [
        *((1, int, True), (True, int, False), (1.0, int, False), (np.int64(1), int, False)),
        *((1, float, True), (True, float, False), (np.float64(2), float, True)),
        *((float("nan"), float, False), (float("inf"), float, False), ("1", float, False)),
        *(
            (2**63 - 1, int, True),
            (2**63, int, False),
            (-(2**63), int, False),
            (10**30, float, False),
        ),
        *((None, int | None, True), ("a", int | Literal["a"], True), ("b", int | None, False)),
        *((True, bool, True), (1, bool, False), ("a", str, True), (None, str, False)),
    ],
)
def test_fits(value, hint, answer):
    assert fits(value, hint) is answer


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Outer(inner=Inner(size="3")), "inner.size"),
        (Outer(inner=Inner(rate=float("nan"))), "inner.rate"),
        (Outer(inner={"size": 3}), "inner"),
        (Outer(kind="c"), "kind"),
        (Outer(parts=(Inner(), Inner(size=None))), "parts"),
        (Outer(digests={"a": 1}), "digests"),
    ],
)
def test_a_field_of_another_type_is_named(value, name):
    check_fields(Outer(parts=(Inner(),), digests={"a": "b"}), "it")
    with pytest.raises(UserError, match=f"^it has {name} "):
        check_fields(value, "it")
