"""The files of a run, given what Hypothesis made of them: UserErrors alone come out."""

import json
import shutil

import pytest
from cache_fixtures import make_cache
from mutations import attack, damaged, documents_of, lines_of
from small_states import small_state

from vasae_jax.config import Config, DataConfig, RunConfig, SAEConfig
from vasae_jax.config.overrides import to_dict
from vasae_jax.report.run_report import _curves
from vasae_jax.training.checkpoint import Checkpoints, load_params
from vasae_jax.training.digests import ITEMS, write_digests
from vasae_jax.training.events import _lines
from vasae_jax.training.run import open_trained
from vasae_jax.training.run_dir import RunDir, metrics_of
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import write_json
from vasae_jax.utils.lock import _read_owner

pytestmark = pytest.mark.fault
LINES = [{"step": step, "rows": 8 * step, "fvu": 0.5, "rows_per_s": 10.0} for step in (1, 2, 3)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    run = tmp_path_factory.mktemp("saved") / "run"
    with Checkpoints(run) as checkpoints:
        checkpoints.save(2, small_state(2))
    return run


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def test_metrics(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES), encoding="utf-8")

    def read():
        found = RunDir(tmp_path)
        found.best_fvu()
        _curves(tmp_path)
        found.cut_metrics(2)
        assert all(isinstance(each["step"], int | float) for each in metrics_of(tmp_path))

    found = [b'{"step": 1', b"[1]\n\xff\n{}\n", b'{"step": 1, "fvu": "low"}\n{"step": [2]}\n']
    attack(file, lines_of(file), read, found)


@pytest.mark.parametrize(("name", "read"), [("events.jsonl", _lines), ("owner.json", _read_owner)])
def test_records_that_are_left_out_where_they_are_damaged(tmp_path, name, read):
    file = tmp_path / name
    write_json(file, {"event": "start", "time": "now", "host": "a", "process": 3})
    attack(file, documents_of(file) | damaged(file.read_bytes()), lambda: read(file))


def test_the_digests_of_a_checkpoint(run):
    file = run / "checkpoints" / "2" / "params" / "digests.json"
    attack(file, documents_of(file), lambda: load_params(run))


@pytest.mark.parametrize("pattern", ["_METADATA", "manifest.ocdbt", "ocdbt.process_0/d/*"])
def test_a_checkpoint_whose_digests_fit(run, pattern):
    """Somebody else's: what they would find is not the point."""
    file = sorted((run / "checkpoints" / "2" / "params").glob(pattern))[0]

    def read():
        for item in ITEMS:
            write_digests(run / "checkpoints" / "2" / item)
        load_params(run)

    attack(file, damaged(file.read_bytes()), read)


@pytest.fixture
def whole(run, tmp_path):
    """A run with its cache, as ``vasae eval`` opens it."""
    cache = make_cache(tmp_path, rows=40, heldout=20, layers=(1,), vocab=5, d=4)
    config = Config(
        data=DataConfig(cache=cache.url, layer=1),
        sae=SAEConfig(d_sae=8, k=3),
        run=RunConfig(out=str(run)),
    )
    write_json(
        run / "config.json",
        {
            "created_by": "vasae_jax 0",
            "cache_digest": cache.digest,
            "vocabulary_digest": cache.manifest.vocabulary_digest,
            "row_order": 3,
            "config": to_dict(config),
        },
    )
    return run


def test_a_run_is_opened(whole):
    file = whole / "config.json"
    attack(file, documents_of(file), lambda: open_trained(str(whole)))


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        *(("sae", "k", "3"), ("sae", "k", 0), ("sae", "k", 99), ("sae", "d_sae", 9)),
        *(("sae", "activation", "jumprelu"), ("sae", "pre_bias", [1]), ("data", "layer", -1)),
        *(("data", "layer", 0.5), ("run", "steps", True), ("optim", "lr", "fast")),
    ],
)
def test_settings_that_are_not_those_of_the_checkpoint_are_refused(whole, section, name, value):
    open_trained(str(whole))
    record = json.loads((whole / "config.json").read_bytes())
    record["config"][section][name] = value
    (whole / "config.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=rf"{name}|layer|parameters"):
        open_trained(str(whole))
