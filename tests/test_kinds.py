"""tools/kinds.py: documents and their kinds, and names from some of the rows."""

import sys
from pathlib import Path

import numpy as np
import pytest

from vasae_jax.names.firings import Firings, RowTokens
from vasae_jax.utils.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import kinds


def test_a_document_has_the_kind_of_its_file(tmp_path):
    (tmp_path / "code.jsonl").write_text("{}\n" * 2, encoding="utf-8")
    (tmp_path / "tales.jsonl").write_text("{}\n" * 3, encoding="utf-8")
    names, kind = kinds.kinds_of(tmp_path, 5)
    assert names == ["code", "tales"]
    assert kind.tolist() == [0, 0, 1, 1, 1]
    with pytest.raises(UserError):
        kinds.kinds_of(tmp_path, 6)


def test_names_come_from_the_rows_of_a_kind_alone():
    """Feature 0 fires at token 7 on the first four rows, and at token 9 on the others."""
    rows = 8
    token = np.array([7, 1, 7, 1, 9, 1, 9, 1], np.int32)
    tokens = RowTokens(
        window=np.zeros(rows, np.int32), token=token, next_token=np.full(rows, -1, np.int32),
        observed=np.ones(rows, bool),
    )  # fmt: skip
    fired = np.array([0, 2, 4, 6])
    firings = Firings(
        feature=np.zeros(4, np.int32), activation=np.ones(4, np.float32), token=token[fired],
        next_token=np.full(4, -1, np.int32), row=fired,
    )  # fmt: skip
    for half, name in ((slice(0, 4), 7), (slice(4, 8), 9)):
        chosen = np.zeros(rows, bool)
        chosen[half] = True
        part = kinds.of_kind(firings, tokens, chosen)
        assert part[1].observed.sum() == 4
        names = kinds.names_of(*part, features=2, vocab_size=10)
        assert names.ids[0, 0] == name and (names.ids[0, 1:] == -1).all()
        assert (names.ids[1] == -1).all()
