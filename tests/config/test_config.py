"""Settings from a file and from the command line, and what is said about wrong ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from vasae_jax.config import Config
from vasae_jax.config.overrides import (
    difference,
    from_dict,
    load_file,
    load_runs,
    parse_overrides,
    to_dict,
)
from vasae_jax.config.presets import published
from vasae_jax.utils.errors import UserError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def parse(*arguments):
    return parse_overrides(Config(), arguments, "vasae train")


def test_overrides_are_typed():
    config = parse("--sae.k=64", "--optim.lr=3e-4", "--run.tensorboard", "--sae.no-unit-norm")
    assert (config.sae.k, config.optim.lr) == (64, 3e-4)
    assert config.run.tensorboard and not config.sae.normalize_decoder
    assert parse("--run.tensorboard=true", "--sae.normalize-decoder=False") == parse(
        "--run.tensorboard", "--sae.no-unit-norm"
    )


@pytest.mark.parametrize("arguments", [[], ["--mesh.data=auto"], ["--mesh.data=0"]])
def test_auto_takes_the_devices_that_are_left(arguments):
    assert parse(*arguments).mesh.rows_over == 0
    assert parse("--mesh.data=4").mesh.rows_over == 4
    with pytest.raises(UserError, match=r"--mesh.data"):
        parse("--mesh.data=all")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--sae.kk=3", r"unknown setting --sae.kk; did you mean --sae.k"),
        ("--k=3", r"unknown setting --k; did you mean --sae.k\?"),
        ("--sae.dsae=3", r"did you mean --sae.d-sae"),
        ("--zzz=3", r"see vasae train --help for all settings"),
        ("--sae.k=abc", r"--sae.k: invalid literal for int"),
        ("--sae.compute_dtype=float16", r"invalid choice 'float16' .*'float32', 'bfloat16'"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(argument, sentence):
    with pytest.raises(UserError, match=sentence) as refused:
        parse(argument)
    assert "\n" not in str(refused.value)


def test_a_config_survives_json():
    config = replace(published(cache="c", layer=3), run=replace(Config().run, out="o"))
    assert from_dict(to_dict(config), "config.json") == config
    assert difference(config, config) is None
    assert difference(Config(), parse("--sae.k=64")) == "sae.k was 32 and is now 64"


@pytest.mark.parametrize(("old", "new"), [("here", "at"), ("next", "before")])
def test_a_renamed_choice_is_refused_by_its_new_name(old, new):
    value = to_dict(Config())
    value["anchor"]["kind"] = old
    with pytest.raises(UserError, match=rf"config.json has anchor.kind = {old}.* {new};"):
        from_dict(value, "config.json")
    with pytest.raises(UserError, match=f"anchor.kind={new}"):
        parse_overrides(Config(), [f"--anchor.kind={old}"], "x")


def test_a_config_of_another_version_is_refused():
    value = to_dict(Config())
    value["sae"]["colour"] = "red"
    with pytest.raises(UserError, match=r"config.json is not a config of this version: .*colour"):
        from_dict(value, "config.json")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("config = 3", "has config = int; expected a vasae_jax.config.settings.Config, or a list"),
        ("config = []", "has config = list"),
        ("x = ", "fails: SyntaxError"),
        ("from vasae_jax.config import Config\nconfig = Config(foo=1)", "fails: TypeError.*foo"),
    ],
)
def test_a_wrong_config_file_is_refused(tmp_path, text, sentence):
    file = tmp_path / "config.py"
    file.write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_file(str(file))
    with pytest.raises(UserError, match="is not there"):
        load_file(str(tmp_path / "missing.py"))


def test_a_list_of_configs_is_a_pack(tmp_path):
    file = tmp_path / "pack.py"
    file.write_text("from vasae_jax.config import Config\nconfig = (Config(), Config())")
    assert load_runs(str(file)) == [Config(), Config()]
    with pytest.raises(UserError, match="has a pack of 2 runs; expected one Config"):
        load_file(str(file))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_states_its_cost(path):
    assert isinstance(load_file(str(path)), Config)
    text = path.read_text()
    for word in ("Command:", "Run time", "Result"):
        assert word in text, f"{path.name} does not state its {word}"
