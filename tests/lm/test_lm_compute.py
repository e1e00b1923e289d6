"""bfloat16 is taken where it is clearly faster."""

import pytest

from vasae_jax.lm import lm as compute


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"),
    [(1.0, 0.5, "bfloat16"), (1.0, 0.8, "bfloat16"), (1.0, 0.9, "float32"), (1.0, 2.0, "float32")],
)
def test_bfloat16_must_be_worth_its_rounding(float32, bfloat16, expected):
    assert compute.choose_dtype({"float32": float32, "bfloat16": bfloat16}) == expected


def test_both_dtypes_multiply_the_same_shape(monkeypatch):
    monkeypatch.setattr(compute, "PROBE_SHAPE", (3, 768, 2))
    for multiply in compute.products().values():
        assert multiply().tolist() == [[768.0] * 2] * 3
