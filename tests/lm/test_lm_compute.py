"""bfloat16 is taken where it is clearly faster."""

import pytest

from vasae_jax.distributed.autotune import Fastest
from vasae_jax.lm import lm as compute


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"),
    [(1.0, 0.5, "bfloat16"), (1.0, 0.8, "bfloat16"), (1.0, 0.9, "float32"), (1.0, 2.0, "float32")],
)
def test_bfloat16_must_be_worth_its_rounding(float32, bfloat16, expected):
    seconds = {"float32": float32, "bfloat16": bfloat16}
    assert compute.choose(Fastest(min(seconds, key=seconds.get), seconds)) == expected


def test_both_ways_are_the_product_that_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "ROWS", 3)
    monkeypatch.setattr(compute, "COLUMNS", 2)
    for way in compute.ways().values():
        assert way().tolist() == [[compute.WIDTH] * 2] * 3
