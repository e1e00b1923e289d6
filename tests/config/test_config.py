"""Settings from files and from the command line, and the errors for wrong ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from vasae_jax.config import Config
from vasae_jax.config.overrides import (
    RENAMED,
    difference,
    flatten,
    from_dict,
    load_config,
    load_config_or_pack,
    parse_overrides,
    to_dict,
)
from vasae_jax.config.presets import published
from vasae_jax.utils.errors import UserError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def parse(*arguments):
    return parse_overrides(Config(), arguments, "vasae train")


def test_overrides_are_typed():
    flags = ("--run.tensorboard", "--sae.no-normalize-decoder")
    config = parse("--sae.k=64", "--optim.lr=3e-4", *flags)
    assert (config.sae.k, config.optim.lr) == (64, 3e-4)
    assert config.run.tensorboard and not config.sae.normalize_decoder
    assert parse("--run.tensorboard=true", "--sae.normalize-decoder=False") == parse(*flags)


@pytest.mark.parametrize("arguments", [[], ["--mesh.data=auto"], ["--mesh.data=0"]])
def test_auto_takes_the_devices_that_are_left(arguments):
    assert parse(*arguments).mesh.rows_over == 0
    assert parse("--mesh.data=4").mesh.rows_over == 4
    with pytest.raises(UserError, match=r"--mesh.data"):
        parse("--mesh.data=all")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--sae.kk=3", ["--sae.kk", "--sae.k"]),
        ("--k=3", ["--k", "--sae.k"]),
        ("--sae.dsae=3", ["--sae.dsae", "--sae.d-sae"]),
        ("--zzz=3", ["--zzz", "--help"]),
        ("--sae.k=abc", ["--sae.k", "abc"]),
        ("--sae.compute_dtype=float16", ["float16", "float32", "bfloat16"]),
        ("--data.lanes=3", ["--data.lanes", "--data.readers"]),
        ("--run.fall-back", ["--run.fall-back", "--run.skip-damaged"]),
        ("--anchor.kind=here", ["--anchor.kind=here", "--anchor.kind=at"]),
        ("--anchor.feature-weight=root_rate", ["root_rate", "sqrt_rate"]),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(argument, words):
    with pytest.raises(UserError) as refused:
        parse(argument)
    assert all(word in str(refused.value) for word in words)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("old", RENAMED)
def test_a_renamed_setting_has_a_new_name_that_exists(old):
    assert RENAMED[old] in flatten(Config()) and old not in flatten(Config())


def test_a_config_survives_json():
    config = replace(published(cache="c", layer=3), run=replace(Config().run, out="o"))
    assert from_dict(to_dict(config), "config.json") == config
    assert difference(config, config) is None
    assert difference(Config(), parse("--sae.k=64")) == "sae.k was 32 and is now 64"


@pytest.mark.parametrize(("old", "new"), [("here", "at"), ("next", "before")])
def test_a_renamed_choice_is_refused_by_its_new_name(old, new):
    value = to_dict(Config())
    value["anchor"]["kind"] = old
    with pytest.raises(UserError, match=rf"config.json has anchor.kind='{old}'.* {new};"):
        from_dict(value, "config.json")
    with pytest.raises(UserError, match=f"anchor.kind={new}"):
        parse_overrides(Config(), [f"--anchor.kind={old}"], "x")


def test_a_config_of_another_version_is_refused():
    value = to_dict(Config())
    value["sae"]["colour"] = "red"
    with pytest.raises(UserError, match=r"config.json.*colour"):
        from_dict(value, "config.json")


@pytest.mark.parametrize(
    ("section", "name", "value", "words"),
    [
        ("data", "lanes", 8, ["data.lanes", "data.readers"]),
        ("anchor", "feature_weight", "root_rate", ["root_rate", "sqrt_rate"]),
        ("anchor", "kind", "next", ["next", "before"]),
        ("anchor", "mode", "furthest", ["furthest", "nearest"]),
    ],
)
def test_settings_and_values_of_earlier_versions_are_named(section, name, value, words):
    old = to_dict(Config())
    old[section][name] = value
    with pytest.raises(UserError, match=r"^config.json") as refused:
        from_dict(old, "config.json")
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config = 3", "int"),
        ("config = []", "list"),
        ("config = [3]", "list"),
        ("x = ", "SyntaxError"),
        ("config = Config(foo=1)", "TypeError.*foo"),
        ("config = Config(data=DataConfig(lanes=4))", r"lanes.*data\.readers"),
        (
            "config = Config(anchor=AnchorConfig(feature_weight='root_rate'))",
            "root_rate.*sqrt_rate",
        ),
    ],
)
def test_a_wrong_config_file_is_refused(tmp_path, text, words):
    file = tmp_path / "config.py"
    file.write_text(
        f"from vasae_jax.config import AnchorConfig, Config, DataConfig\n{text}", encoding="utf-8"
    )
    with pytest.raises(UserError, match=words):
        load_config(str(file))
    with pytest.raises(UserError, match=r"missing\.py"):
        load_config(str(tmp_path / "missing.py"))


def test_a_list_of_configs_is_a_pack(tmp_path):
    file = tmp_path / "pack.py"
    file.write_text(
        "from vasae_jax.config import Config\nconfig = (Config(), Config())", encoding="utf-8"
    )
    assert load_config_or_pack(str(file)) == [Config(), Config()]
    with pytest.raises(UserError, match="2 runs"):
        load_config(str(file))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_loads_and_states_its_cost(path):
    assert isinstance(load_config(str(path)), Config)
    text = path.read_text(encoding="utf-8")
    for word in ("Command:", "Run time", "Result"):
        assert word in text, f"{path.name} does not state its {word}"


WRONG = {
    "sae.k": ["32", 3.0, True, None, [32], 2**63],
    "optim.lr": ["fast", float("nan"), float("inf"), True],
    "sae.pre_bias": [None, "1", [1]],
    "data.cache": [None, 3],
    "sae.method": ["hard", 0],
    "sae.normalize_decoder": [1, "yes"],
}


@pytest.mark.fault
@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in WRONG.items() for v in values])
def test_a_value_of_another_type_is_refused_wherever_it_comes_from(tmp_path, name, value):
    section, field = name.split(".")
    stored = to_dict(Config())
    stored[section][field] = value
    with pytest.raises(UserError, match=rf"config\.json (has|lacks) {name}"):
        from_dict(stored, "config.json")
    file = tmp_path / "own.py"
    kind = type(getattr(Config(), section)).__name__
    file.write_text(
        f"from vasae_jax.config import Config, {kind}\nnan, inf = float('nan'), float('inf')\n"
        f"config = Config({section}={kind}({field}={value!r}))\n",
        encoding="utf-8",
    )
    with pytest.raises(UserError, match=rf"own\.py has {name}="):
        load_config(str(file))


@pytest.mark.fault
@pytest.mark.parametrize(
    "argument", ["--optim.lr=nan", "--data.max-norm=inf", "--run.seed=1" + "0" * 30]
)
def test_a_number_that_is_none_is_refused_on_the_command_line(argument):
    with pytest.raises(UserError, match="the command line has"):
        parse(argument)


@pytest.mark.fault
@pytest.mark.parametrize("value", [None, [], {"sae": []}, {"sae": None}, {"more": {}}, {3: {}}])
def test_sections_that_are_none_are_refused(value):
    with pytest.raises(UserError, match=r"config\.json"):
        from_dict(value, "config.json")
