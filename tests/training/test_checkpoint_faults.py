"""Checkpoints whose files are damaged, cut or deleted, and saves that are killed."""

import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from full_disks import full_beyond
from small_states import small_state

from vasae_jax.training import checkpoint
from vasae_jax.training.checkpoint import Checkpoints, load_params, step_to_resume
from vasae_jax.training.digests import kept_steps
from vasae_jax.utils.errors import UserError

pytestmark = pytest.mark.fault
# As the command line does: what a failed save leaves is told again when it is collected.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run's checkpoints of the steps 1 and 2."""
    run = tmp_path_factory.mktemp("saved") / "run"
    with Checkpoints(run) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, small_state(step))
    return run


@pytest.fixture
def run(saved, tmp_path):
    """The same, to be damaged."""
    return shutil.copytree(saved, tmp_path / "run")


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


DAMAGES = {
    "flipped": flip,
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_to_any_file_is_named_or_of_no_effect(saved, tmp_path, kind):
    step = saved / "checkpoints" / "2"
    files = [path.relative_to(saved) for path in step.rglob("*") if path.is_file()]
    assert len(files) > 15
    with Checkpoints(saved) as checkpoints:
        kept = checkpoints.restore(2, small_state(0))
    for number, file in enumerate(files):
        damaged = shutil.copytree(saved, tmp_path / str(number))
        DAMAGES[kind](damaged / file)
        with Checkpoints(damaged) as checkpoints:
            said = checkpoints.damage(2)
            if file.name in ("_CHECKPOINT_METADATA", "commit_success.txt"):  # Orbax's own notes
                assert said is None
                found = checkpoints.restore(2, small_state(0))
                jax.tree.map(np.testing.assert_array_equal, found, kept)
            else:
                assert f"{damaged / 'checkpoints' / '2'} is damaged: " in said
                assert str(file.relative_to("checkpoints/2")) in said


def test_readers_refuse_damaged_parameters(run):
    flip(next((run / "checkpoints" / "2" / "params" / "d").iterdir()))
    with pytest.raises(UserError, match=r"checkpoints/2 is damaged: params/d/\w+ is not what was"):
        load_params(run)


def test_a_lost_item_is_missed(run):
    shutil.rmtree(run / "checkpoints" / "2" / "params")
    with Checkpoints(run) as checkpoints:
        assert checkpoints.damage(2).endswith("is damaged: params/digests.json is missing")


def test_a_damaged_step_is_refused_and_passed_over_when_asked(run, capsys):
    flip(run / "checkpoints" / "2" / "rest" / "manifest.ocdbt")
    with Checkpoints(run) as checkpoints:
        with pytest.raises(UserError, match=r"--run\.skip-damaged to go on after step 1 instead$"):
            step_to_resume([checkpoints], skip_damaged=False)
        assert checkpoints.steps() == [1, 2]
        assert step_to_resume([checkpoints], skip_damaged=True) == 1
        assert "rest/manifest.ocdbt is not what was written: passed over" in capsys.readouterr().err
        checkpoints.save(2, small_state(2))
        assert step_to_resume([checkpoints], skip_damaged=False) == 2


def test_where_no_step_is_whole_nothing_is_deleted_or_begun_again(run):
    for step in ("1", "2"):
        flip(run / "checkpoints" / step / "params" / "_METADATA")
    with Checkpoints(run) as checkpoints:
        for skip_damaged in (False, True):
            with pytest.raises(UserError, match=r"is damaged: params/_METADATA"):
                step_to_resume([checkpoints], skip_damaged=skip_damaged)
        assert checkpoints.steps() == [1, 2]


def test_a_pack_goes_back_together(saved, run):
    flip(run / "checkpoints" / "2" / "params" / "_METADATA")
    other = shutil.copytree(saved, run.parent / "other")
    with Checkpoints(other) as first, Checkpoints(run) as second:
        with pytest.raises(UserError, match=rf"{run}/checkpoints/2 is damaged"):
            step_to_resume([first, second], skip_damaged=False)
        assert step_to_resume([first, second], skip_damaged=True) == 1
        assert first.steps() == second.steps() == [1]


def empty(step):
    shutil.rmtree(step)
    step.mkdir()


def without_digests(step):
    for file in step.rglob("digests.json"):
        file.unlink()


@pytest.mark.parametrize("lose", [empty, without_digests])
def test_a_step_without_digests_is_whole_to_no_reader(run, lose):
    lose(run / "checkpoints" / "2")
    assert kept_steps(run) == [1]
    with pytest.raises(
        UserError, match=r"checkpoints/2 is damaged: params/digests.json is missing"
    ):
        load_params(run)
    with Checkpoints(run) as checkpoints:
        with pytest.raises(UserError, match=r"checkpoints/2 is damaged: .*--run.skip-damaged"):
            step_to_resume([checkpoints], skip_damaged=False)
        assert step_to_resume([checkpoints], skip_damaged=True) == 1
        checkpoints.save(2, small_state(2))
    assert kept_steps(run) == [1, 2]
    assert load_params(run)[0] == 2


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("keep", "kept"), [(2, [1, 2]), (1, [1, 2])])
def test_a_state_that_is_not_finite_is_not_saved(run, value, keep, kept):
    state = small_state(3)
    state.params["b_dec"] = state.params["b_dec"].at[2].set(value)
    sentence = "state after step 3 is not finite and is not saved"
    with pytest.raises(UserError, match=sentence), Checkpoints(run, keep=keep) as checkpoints:
        checkpoints.save(3, state)
    with Checkpoints(run) as checkpoints:
        assert checkpoints.steps() == kept


@pytest.mark.slow
def test_a_save_or_deletion_killed_at_any_point_leaves_whole_steps(tmp_path, capsys):
    here = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(here)])}
    command = [sys.executable, here / "killed_saves.py", tmp_path]
    subprocess.run(command, env=environment, check=True)
    found = set()
    for run in tmp_path.iterdir():
        capsys.readouterr()
        with Checkpoints(run) as checkpoints:
            steps = checkpoints.steps()
            assert [checkpoints.damage(step) for step in steps] == [None] * len(steps)
            assert checkpoints.restore(steps[-1], small_state(0)).step == steps[-1]
        found.add((*steps, capsys.readouterr().err.count("removing what a stopped")))
        assert sorted(os.listdir(run / "checkpoints")) == [str(step) for step in steps]
    assert {(1, 2, 1), (2, 3, 1)} <= found  # killed in the save, and in the deletion
    assert found <= {(1, 2, 0), (1, 2, 1), (1, 2, 3, 0), (2, 3, 0), (2, 3, 1)}


# In the arrays, and in the files beside them; of a state that is copied first, as on CPU, and not.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.filterwarnings("ignore:Error .*ing persistent compilation cache")
@pytest.mark.parametrize("size", [16, 300, 4000])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_a_disk_that_fills_in_a_save_is_one_sentence(run, monkeypatch, capfd, backend, size):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(checkpoint.jax, "default_backend", lambda: backend)
    state = small_state(3, wide=1000)
    with pytest.raises(UserError) as refused, Checkpoints(run) as checkpoints, full_beyond(size):
        checkpoints.save(3, state)
        checkpoints.close()  # waits for what goes on in the background, up to its first error
    for thread in threading.enumerate():  # and here for the rest, as the end of a process does
        if thread.name == "async_save" or type(thread).__module__.startswith("orbax"):
            threading.Thread.join(thread, 10)  # Orbax's own would raise again what it raised
    said = str(refused.value)
    assert re.search(r"cannot be written to .*checkpoints \(|cannot write .*checkpoints/3", said)
    assert "expected a writable place with free space" in said and "tensorstore" not in said
    with Checkpoints(run) as checkpoints:
        # Where only Orbax's own note failed, and the rest found room afterwards, 3 is whole.
        assert step_to_resume([checkpoints], skip_damaged=False) in (2, 3)
        checkpoints.save(3, small_state(3))
    assert load_params(run)[0] == 3
    assert "Traceback" not in capfd.readouterr().err
