"""Files that name other files: a name that leads out of the folder is refused wherever it is."""

import json

import numpy as np
import pytest
from cache_fixtures import make_cache
from lm_fixtures import gpt2_config, random_model, save_model

from vasae_jax.anchor.layer_anchors import layer_anchors
from vasae_jax.cache.manifest import checksum
from vasae_jax.config import Config
from vasae_jax.extract.row_files import open_rows
from vasae_jax.extract.sources import HfModel
from vasae_jax.lm.hf_weights import DirectoryTensors
from vasae_jax.lm.tokenizer import tokenizer_from_directory
from vasae_jax.sweep.points import Member, read_members, write_members
from vasae_jax.training.digests import damage_of, write_digests
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.files import path_inside, sha256_bytes

pytestmark = [pytest.mark.fault, pytest.mark.hostile]
OUTSIDE = ["../secret", "deep/../../secret", "/etc/passwd", "..", "", ".", 7, None, ["a"], "a\0b"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"record\.json names a file"):
        path_inside(tmp_path, name, tmp_path / "record.json")


def test_a_name_in_the_folder_is_its_path(tmp_path):
    for name in ("a.bin", "deep/a.bin", "..a"):
        assert path_inside(tmp_path, name, "record.json") == tmp_path / name


@pytest.fixture
def secret(tmp_path):
    """Weights outside of the folder that a test reads."""
    save_model(random_model(gpt2_config()), tmp_path / "secret")
    return tmp_path / "secret" / "model.safetensors"


def point_at(folder, name):
    """An index of shards in ``folder`` that names another file."""
    folder.mkdir(exist_ok=True)
    index = {"weight_map": {"wte.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def test_an_index_of_shards_names_files_of_its_folder(tmp_path, secret):
    for name in ("../secret/model.safetensors", str(secret)):
        point_at(tmp_path / "model", name)
        with pytest.raises(UserError, match="names a file"):
            DirectoryTensors(tmp_path / "model")


def test_nor_does_transformers_read_other_folders(tmp_path, secret):
    folder = save_model(random_model(gpt2_config()), tmp_path / "model")
    point_at(folder, "../secret/model.safetensors")
    with pytest.raises(UserError, match="names a file"):
        HfModel(str(folder), "torch")
    (folder / "model.safetensors.index.json").unlink()
    adapter = folder / "adapter_config.json"
    adapter.write_text(json.dumps({"base_model_name_or_path": "../secret"}), encoding="utf-8")
    with pytest.raises(UserError, match="names another model"):
        HfModel(str(folder), "torch")
    adapter.unlink()
    settings = json.loads((folder / "config.json").read_bytes())
    settings["transformers_weights"] = "../secret/model.safetensors"
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError, match="names a file"):
        HfModel(str(folder), "torch")


def test_a_tokenizer_is_not_made_of_files_elsewhere(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "vocab.json").write_text('{"a": 0}', encoding="utf-8")
    settings = {"tokenizer_class": "GPT2Tokenizer", "vocab_file": str(tmp_path / "vocab.json")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(UserError, match="names a file"):
        tokenizer_from_directory(folder, {}, 10)


def test_rows_of_other_programs_lie_in_their_folder(tmp_path):
    folder = tmp_path / "arrow"
    folder.mkdir()
    state = {"_data_files": [{"filename": "../data.arrow"}]}
    for name, value in (("state.json", state), ("dataset_info.json", {})):
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(UserError, match="names a file"):
        open_rows(str(folder))
    shards = tmp_path / "saev"
    shards.mkdir()
    np.zeros((4, 1, 3, 2), np.float32).tofile(tmp_path / "shard.bin")
    metadata = {"layers": [0], "n_examples": 4, "content_tokens_per_example": 3, "d_model": 2}
    entries = [{"name": "../shard.bin", "n_examples": 4}]
    for name, value in (("metadata.json", metadata), ("shards.json", entries)):
        (shards / name).write_text(json.dumps(value), encoding="utf-8")
    np.save(tmp_path / "tokens.npy", np.ones((4, 3), np.int32))
    with pytest.raises(UserError, match="names a file"):
        open_rows(str(shards), tokens=str(tmp_path / "tokens.npy"))


@pytest.mark.parametrize(
    "change", [{"sha256": "../../../x"}, {"shape": [10**12]}, {"dtype": "float64"}, None]
)
def test_anchors_are_arrays_of_known_names_and_shapes(tmp_path, change):
    cache = make_cache(tmp_path, rows=80, heldout=20)
    layer_anchors(cache, 1, 0, 0.0)
    (file,) = (tmp_path / "cache").glob("anchors/*/anchors.json")
    manifest = json.loads(file.read_bytes())
    if change:
        manifest["arrays"]["at_count"] |= change
    else:
        manifest["arrays"]["../../x"] = manifest["arrays"].pop("at_count")
    manifest["checksum"] = checksum(manifest)
    file.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(UserError, match="expected"):
        layer_anchors(cache, 1, 0, 0.0)


@pytest.mark.parametrize("key", ["../../../x", "0123456789a", "../0123456", 7])
def test_the_runs_of_a_sweep_lie_in_its_folder(tmp_path, key):
    write_members(tmp_path, [Member(key, "k=32", Config())])
    with pytest.raises(UserError, match="damaged"):
        read_members(tmp_path)


def test_digests_are_of_files_in_the_checkpoint(tmp_path):
    (tmp_path / "secret").write_text("secret", encoding="utf-8")
    for item in ("params", "rest"):
        (tmp_path / "8" / item).mkdir(parents=True)
        write_digests(tmp_path / "8" / item)
    file = tmp_path / "8" / "params" / "digests.json"
    outside = tmp_path / "8" / "params" / "x"
    outside.write_text("secret", encoding="utf-8")
    write_digests(outside.parent)
    assert damage_of(tmp_path / "8") is None
    record = json.loads(file.read_bytes())
    record["files"] = {"../../secret": record["files"]["x"]}
    record["checksum"] = sha256_bytes(json.dumps(record["files"], sort_keys=True).encode())
    file.write_text(json.dumps(record), encoding="utf-8")
    assert "not what was written" in damage_of(tmp_path / "8")
