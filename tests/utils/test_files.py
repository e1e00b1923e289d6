"""Files are complete or not there, and are replaced only with --overwrite."""

import shutil

import numpy as np
import pytest

from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import (
    atomic_file,
    refuse_existing,
    require_space,
    sha256_array,
    write_bytes,
    write_json,
)


@pytest.mark.fault
def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path):
    target = tmp_path / "file"
    write_bytes(target, b"old")
    with pytest.raises(KeyError), atomic_file(target) as handle:
        handle.write(b"half of the ne")
        raise KeyError
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a directory", encoding="utf-8")
    with pytest.raises(UserError, match=r"file/below"):
        write_bytes(tmp_path / "file" / "below", b"x")


@pytest.mark.fault
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_what_other_readers_cannot_read_by_its_name(tmp_path, number):
    with pytest.raises(UserError, match=rf"x.json .*unmasked.1.loss is {number}"):
        write_json(tmp_path / "x.json", {"step": 1, "unmasked": [1.0, {"loss": number}]})
    assert not list(tmp_path.iterdir())


def test_existing_files_are_refused_unless_asked(tmp_path):
    file = tmp_path / "file"
    refuse_existing(file, overwrite=False)
    file.write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=r"file.*--overwrite"):
        refuse_existing(file, overwrite=False)
    refuse_existing(file, overwrite=True)


@pytest.mark.fault
def test_space_is_asked_for_before_it_is_needed(tmp_path):
    require_space(tmp_path, 1)
    with pytest.raises(UserError, match=str(tmp_path)):
        require_space(tmp_path, shutil.disk_usage(tmp_path).total + 1)


def test_array_digests_see_type_shape_and_content():
    arrays = [
        np.zeros((2, 3), np.float32),
        np.zeros((3, 2), np.float32),
        np.zeros((2, 3), np.int32),
    ]
    arrays.append(np.ones((2, 3), np.float32))
    assert len({sha256_array(array) for array in arrays}) == len(arrays)
    strided = np.arange(12, dtype=np.int64).reshape(3, 4)
    assert sha256_array(strided.T) == sha256_array(np.ascontiguousarray(strided.T))
