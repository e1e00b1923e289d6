"""What runs are called: by the settings in which they differ."""

from dataclasses import replace
from pathlib import Path

from vasae_jax.config import AnchorConfig, Config, DataConfig, RunConfig, SAEConfig
from vasae_jax.report.labels import Source, make_labels


def config(layer=3, method="soft", weight=2.0, seed=0):
    return replace(
        Config(),
        data=DataConfig(layer=layer),
        sae=SAEConfig(method=method),
        anchor=AnchorConfig(weight=weight),
        run=RunConfig(seed=seed),
    )


def texts(*configs, model="tiny"):
    runs = [Source(Path(f"runs/{n}"), one, model) for n, one in enumerate(configs)]
    labels = make_labels(runs)
    assert len({label.key for label in labels}) == len(labels)
    return [label.text for label in labels]


def test_layers_are_told_and_nothing_that_is_the_same():
    assert texts(config(3)) == ["layer 3"]
    assert texts(config(3), config(9)) == ["layer 3", "layer 9"]


def test_a_sweep_is_told_by_what_it_varies():
    found = texts(config(weight=0.5), config(weight=2.0), config(weight=2.0, seed=1))
    assert found == [
        "layer 3, lambda 0.5, seed 0",
        "layer 3, lambda 2, seed 0",
        "layer 3, lambda 2, seed 1",
    ]
    soft, plain = texts(config(), config(method="plain"))
    assert soft.startswith("layer 3, soft") and plain == "layer 3, plain"


def test_runs_of_equal_settings_are_told_by_their_directories():
    assert texts(config(), config()) == ["layer 3, 0", "layer 3, 1"]


def test_an_import_is_told_by_its_library():
    def labels(*made):
        runs = [
            Source(Path(f"runs/{n}"), config(seed=n), "tiny", one) for n, one in enumerate(made)
        ]
        return [label.text for label in make_labels(runs)]

    assert labels("sae_lens jumprelu") == ["layer 3"]
    assert labels("sae_lens jumprelu", "") == ["layer 3, sae_lens jumprelu", "layer 3, soft"]
    assert labels("sparsify topk", "", "") == [
        "layer 3, sparsify topk",
        "layer 3, soft, seed 1",
        "layer 3, soft, seed 2",
    ]
    assert labels("sparsify topk", "sparsify topk") == ["layer 3, 0", "layer 3, 1"]


def test_keys_are_safe_in_a_path_and_a_link():
    [label] = make_labels([Source(Path("x"), config(), "../<evil>")])
    assert label.key == "layer-3"
    labels = make_labels([Source(Path("x"), config(), m) for m in ("../<evil>", "%00")])
    assert all(set(label.key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for label in labels)
