"""The command line as a user meets it: verbs over a tiny real model, and what errors look like."""

import io
import json
import os
import pydoc_data.topics
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cache_fixtures import make_cache
from lm_fixtures import llama_config, random_model, save_model

import vasae_jax
from vasae_jax.cli.main import VERBS, main
from vasae_jax.dictionary.files import read_dictionary
from vasae_jax.evaluation.measures import better
from vasae_jax.evaluation.metrics import flatten_numbers

SMALL = [
    "--sae.d-sae=64", "--sae.k=4", "--run.steps=12", "--data.batch=64", "--data.readers=4",
    "--run.log-every=6", "--mesh.data=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model directory, a text directory, and the quickstart's output over both."""
    home = tmp_path_factory.mktemp("home")
    (home / "model").mkdir()
    save_model(random_model(llama_config()), home / "model")
    (home / "texts").mkdir()
    for name, text in list(pydoc_data.topics.topics.items())[:12]:
        (home / "texts" / f"{name}.txt").write_text(text, encoding="utf-8")
    assert main([*quickstart_of(home), *SMALL]) == 0
    return home


HEATMAP = ["heatmap", "--runs", "nowhere", "--lm=nowhere", "--text=a"]


def quickstart_of(home):
    return [
        "quickstart", f"--model={home / 'model'}", f"--text={home / 'texts'}", "--layers=1,2",
        f"--out={home / 'out'}",
    ]  # fmt: skip


def refused(capsys, *arguments):
    """The sentence of a refused command."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("vasae: ") and said.count("\n") == 1
    return said


@pytest.mark.fault
def test_a_terminal_that_lacks_a_character_gets_its_code(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["train", "no-such-config.py"]) == 2
    print("\u2581a", flush=True)
    assert terminal.buffer.getvalue() == b"\\u2581a\n"


def test_quickstart_leaves_everything_it_promises(home):
    out = home / "out"
    dictionary = read_dictionary(out / "dictionary.npz")
    assert dictionary.W_enc.shape == (48, 64)
    assert dictionary.meta["provenance"]["layer"] == 2
    assert (out / "alignment.png").read_bytes()[:4] == b"\x89PNG"
    assert (out / "report" / "index.html").exists()
    assert "names_townsend" in (out / "report" / "data" / "heatmaps.js").read_text(encoding="utf-8")
    names = [
        json.loads(line)
        for line in (out / "names.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    ]
    assert len(names) == 64
    for feature in names:
        assert len(feature["names"]) == 10 and len(feature["layer_names"]) <= 10
    with np.load(out / "dictionary.npz", allow_pickle=False) as arrays:
        assert arrays["W_dec"].dtype == np.float32


@pytest.mark.fault
def test_nothing_that_is_published_names_a_place(home):
    out = home / "out"
    own = [out / "cache", out / "run"]  # these have it: a run finds its cache by it
    files = [
        path
        for path in out.rglob("*")
        if path.is_file() and not any(path.is_relative_to(folder) for folder in own)
    ]
    assert len(files) > 40
    for path in files:
        assert str(home).encode() not in path.read_bytes(), path
    meta = json.loads((out / "meta.json").read_bytes())
    assert meta["provenance"]["text"]["source"] == "texts"
    assert (meta["config"]["data"]["cache"], meta["config"]["run"]["out"]) == ("cache", "run")


def word(text):
    """The first word of a text without its numbers."""
    return re.sub(r"\d", "", text).split()[0]


def test_the_tutorial_runs_on_what_the_quickstart_leaves(home, monkeypatch, capsys):
    page = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"
    cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
    monkeypatch.setenv("VASAE_OUT", str(home / "out"))
    names = {}
    capsys.readouterr()
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            said, shown = capsys.readouterr().out, "".join(cell["outputs"][0]["text"])
            # Its first word is the page's; what a tiny model names may not be worth a line.
            assert not said or word(said) == word(shown) != ""
    assert said.startswith("variance explained: ")


def test_quickstart_goes_on_where_it_was(home, capsys):
    (home / "out" / "dictionary.npz").rename(home / "out" / "kept.npz")
    for name in ("names.jsonl", "meta.json", "alignment.png"):
        (home / "out" / name).unlink()
    shutil.rmtree(home / "out" / "report")
    assert main([*quickstart_of(home), *SMALL]) == 0
    said = capsys.readouterr()
    assert "cache is complete" in said.err and "run is complete" in said.err
    for words in (
        "variance explained",
        "layer names, over",
        "Names that hold best",
        "Typical features",
        "not what it causes",
        "report/index.html in a browser",
    ):
        assert words in " ".join(said.out.split())
    one, other = (np.load(home / "out" / name) for name in ("kept.npz", "dictionary.npz"))
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])


def test_quickstart_overwrites_nothing_unasked(home, capsys):
    assert "--overwrite" in refused(capsys, *quickstart_of(home))
    other = [*quickstart_of(home)[:-1], f"--out={home / 'other'}", "--layer=5"]
    assert "layer 5" in refused(capsys, *other)
    assert not (home / "other").exists()


def test_eval_name_and_export_serve_a_run(home, tmp_path, capsys):
    run = home / "out" / "run"
    assert main(["eval", str(run), f"--out={tmp_path / 'eval.json'}"]) == 0
    found = json.loads((tmp_path / "eval.json").read_text(encoding="utf-8"))
    assert 0 <= found["unmasked"]["alignment"][0]["firing_aligned"] <= 1
    assert found["names"]["embedding"]["features"] > 0
    groups = {group["group"]: group for group in found["names"]["layer"]}
    assert list(groups)[:3] == ["all", "at", "before"] and len(groups) == 7
    assert groups["all"]["features"] == found["names"]["embedding"]["features"]
    assert 0 <= groups["all"]["hold1"] <= groups["all"]["ceiling1"] <= 1
    assert "lm" not in found and "ablation" not in found["names"]
    assert main(["name", str(run), "--top=3", f"--out={tmp_path / 'names.txt'}"]) == 0
    assert main(["export", str(run), f"--out={tmp_path / 'dictionary.npz'}"]) == 0
    assert main(["export", str(run), f"--out={tmp_path / 'lens'}", "--layout=sae_lens"]) == 0
    assert (tmp_path / "lens" / "cfg.json").exists()
    table = (tmp_path / "names.txt").read_text(encoding="utf-8")
    assert main(["name", str(tmp_path / "dictionary.npz"), "--top=3"]) == 0
    assert table in capsys.readouterr().out
    asked = ["name", str(tmp_path / "dictionary.npz"), "--sort=hold"]
    for verdict, name in (("holds", "holds"), ("in part", "in-part"), ("untested", "untested")):
        assert main([*asked, "--verdict", verdict]) == 0
        said = capsys.readouterr().out
        assert said.startswith(
            (tmp_path / f"names-by-hold-{name}-top5.txt").read_text(encoding="utf-8")
        )
        other = {"holds", "in part", "does not hold", "untested"} - {verdict}
        lines = said.split("\n\n")[0].splitlines()[1:]
        assert all(verdict in line for line in lines)
        assert not any(f"  {word}  " in line for word in other for line in lines)
    assert main(["name", str(run), "--verdict=holds", f"--out={tmp_path / 'held.txt'}"]) == 0
    held = (tmp_path / "names-by-hold-holds-top5.txt").read_text(encoding="utf-8")
    assert (tmp_path / "held.txt").read_text(encoding="utf-8") == held
    again = ("export", run, f"--out={tmp_path / 'dictionary.npz'}")
    assert "--overwrite" in refused(capsys, *again)
    assert main([*map(str, again), "--overwrite"]) == 0


@pytest.mark.parametrize("layout", ["delphi", "neuronpedia", "circuit_tracer"])
def test_layouts_of_what_features_do_are_of_a_run_and_replaced_only_when_asked(
    home, tmp_path, capsys, layout
):
    out = tmp_path / layout
    asked = ("export", home / "out" / "run", f"--out={out}", f"--layout={layout}")
    assert main([*map(str, asked)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert json.loads((out / "meta.json").read_text(encoding="utf-8"))["features"] == 64
    assert "--overwrite" in refused(capsys, *asked)
    assert main([*map(str, asked), "--overwrite"]) == 0
    of_npz = ("export", home / "out" / "dictionary.npz", f"--out={tmp_path / 'no'}", asked[-1])
    assert "dictionary.npz" in refused(capsys, *of_npz)
    assert not (tmp_path / "no").exists()


def test_a_mesh_measures_and_names_what_one_device_does(home, tmp_path, capsys):
    run, found = home / "out" / "run", []
    for number, mesh in enumerate(([], ["--mesh.data=3", "--mesh.model=2"])):
        out = tmp_path / str(number)
        out.mkdir()
        assert main(["eval", str(run), f"--out={out / 'eval.json'}", *mesh]) == 0
        assert main(["export", str(run), f"--out={out / 'dictionary.npz'}", *mesh]) == 0
        measured = json.loads((out / "eval.json").read_text(encoding="utf-8"))["unmasked"]
        found.append((measured, np.load(out / "dictionary.npz")))
    (one, names), (many, other_names) = found
    assert many["rows"] == one["rows"] and many["dead"] == one["dead"]
    assert many["fvu"] == pytest.approx(one["fvu"], rel=1e-5)  # float32 sums in another order
    for share in ("firing_aligned", "mass_aligned", "firing_cosine"):
        for ours, theirs in zip(many["alignment"], one["alignment"], strict=True):
            assert ours[share] == pytest.approx(theirs[share], rel=1e-5)
    for array in ("token_ids", "layer_token_ids", "layer_relation", "layer_rows", "verdict"):
        np.testing.assert_array_equal(other_names[array], names[array])
    out = ("--out", tmp_path / "none.json")
    assert "the 64 features of run" in refused(capsys, "eval", run, *out, "--mesh.model=3")
    assert "found 8 device(s)" in refused(capsys, "eval", run, *out, "--mesh.data=9")
    too_many = ("--mesh.data=auto", "--mesh.model=9")
    assert "data=1 x model=9" in refused(capsys, "eval", run, *out, *too_many)
    assert not (tmp_path / "none.json").exists()


def test_eval_with_a_model_and_another_run(home, tmp_path, capsys):
    run, out = str(home / "out" / "run"), tmp_path / "eval.json"
    asked = ["eval", run, f"--lm={home / 'model'}", "--lm-windows=3", f"--against={run}"]
    assert main([*asked, f"--out={out}"]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["lm"]["windows"] == 3 and found["lm"]["computed"] == "flax bfloat16"
    for patches in found["lm"]["patched"].values():
        assert patches["identity"]["kl"] == pytest.approx(0, abs=1e-5)
    names = found["names"]
    assert names["ablation"]["rows"] > 0
    assert names["against"] == "run"  # and no directory
    assert names["stability"]["same_name"]["named"] == 1
    assert [name for name in flatten_numbers(found) if better(name) is None] == []
    said = capsys.readouterr().out
    assert "masked rows left untouched" in said and "lowered most" in said


@pytest.mark.slow
def test_report_and_heatmap_serve_a_run(home, tmp_path, capsys):
    run, model = str(home / "out" / "run"), f"--lm={home / 'model'}"
    page = tmp_path / "page"
    asked = ["report", run, f"--out={page}", model, "--text=a class of its own"]
    assert main(asked) == 0
    assert str(page / "index.html") in capsys.readouterr().out
    assert "a class of its own" in (page / "data" / "heatmaps.js").read_text(encoding="utf-8")
    assert "--overwrite" in refused(capsys, *asked)
    assert main([*asked, "--overwrite"]) == 0
    picture = tmp_path / "one.svg"
    drawn = ["heatmap", "--runs", run, model, "--case=place_street", f"--out={picture}"]
    assert main(drawn) == 0
    assert picture.read_text(encoding="utf-8").startswith("<?xml")
    assert "--overwrite" in refused(capsys, *drawn)


@pytest.mark.fault
def test_eval_refuses_another_model(home, tmp_path, capsys):
    other = save_model(random_model(llama_config(), seed=1), tmp_path)
    out = tmp_path / "eval.json"
    asked = ("eval", home / "out" / "run", f"--out={out}", f"--lm={other}")
    assert "digest" in refused(capsys, *asked)
    assert "nowhere" in refused(capsys, *asked[:3], "--lm=./nowhere")
    assert "nowhere" in refused(capsys, *asked[:3], "--against=nowhere")
    assert not out.exists()


def test_cache_info_and_verify(home, capsys):
    url = str(home / "out" / "cache")
    assert main(["cache", "info", url]) == 0
    assert "sites       layers.1.resid_post, layers.2.resid_post" in capsys.readouterr().out
    assert main(["cache", "verify", url]) == 0


def test_verify_names_the_damage(tmp_path, capsys):
    cache = make_cache(tmp_path)
    victim = next((tmp_path / "cache" / "train" / "acts").rglob("c/*/*"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(bytes(data))
    assert cache.url in refused(capsys, "cache", "verify", cache.url)


@pytest.mark.fault
@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["tarin"], "'tarin'"),
        (["train", "nowhere.py"], "nowhere.py"),
        (["train", "--sae.kk=3"], "--sae.kk"),
        (["train"], "--data.cache"),
        (["train", "--data.cache=nowhere", "--run.out=x"], "nowhere"),
        (["eval", "nowhere"], "nowhere"),
        (["name", "nowhere"], "nowhere"),
        (["export", "nowhere", "--out=d.npz"], "nowhere"),
        (["export", "nowhere", "--out=d.txt"], "d.txt"),
        (["quickstart", "--sae.kk=3"], "--sae.kk"),
        (["quickstart", "--model=./nowhere"], "nowhere"),
        (["cache", "info", "nowhere"], "nowhere"),
        (["report", "nowhere", "--out=page"], "nowhere"),
        (["report", "nowhere", "--out=page", "--text=a"], "--text"),
        ([*HEATMAP, "--out=a.pdf"], "a.pdf"),
        ([*HEATMAP, "--out=a.png"], "nowhere"),
    ],
)
def test_a_mistake_gets_one_sentence_and_code_2(tmp_path, monkeypatch, capsys, arguments, value):
    monkeypatch.chdir(tmp_path)
    assert value in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.fault
def test_a_sentence_cannot_move_the_cursor(tmp_path, capsys):
    said = refused(capsys, "train", tmp_path / "a\x1b[2J\n\u202e\udcff.py")
    assert r"a\x1b[2J\x0a\u202e\xff.py" in said


def test_help_names_every_verb(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)
    assert main([]) == 2
    for verb in VERBS:
        with pytest.raises(SystemExit) as ended:
            main([verb, "--help"])
        assert ended.value.code == 0
        assert f"vasae {verb}" in capsys.readouterr().out


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vasae-jax {vasae_jax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["eval", "run", "--lm-windows=0"], "--lm-windows"),
        (["name", "run", "--top=-1"], "--top"),
    ],
)
def test_a_number_that_is_too_small_is_refused(capsys, arguments, value):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert value in capsys.readouterr().err


def test_processes_without_an_address_are_refused(capsys):
    assert "--distributed" in refused(capsys, "train", "--processes=2", "--process-id=0")


@pytest.mark.slow
def test_a_reader_that_has_enough_is_no_error(home):
    """``vasae name RUN | head -1``: the pipe is closed before all is written."""
    command = [sys.executable, "-m", "vasae_jax.cli.main", "name", str(home / "out" / "run")]
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    assert "Traceback" not in done.stderr


def test_quickstart_refuses_what_its_cache_is_not(home, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(home / "out" / "cache", out / "cache")
    again = [*quickstart_of(home), f"--out={out}", *SMALL]
    other = [*again, "--layers=0,2"]
    assert "(1, 2)" in refused(capsys, *other)
    assert "layer 0" in refused(capsys, *again, "--layer=0")


@pytest.mark.fault
@pytest.mark.parametrize(("argument", "code"), [("--sae.kk=3", 2), ("--help", 0)])
def test_help_and_errors_of_settings_load_no_jax(argument, code):
    """Of ``vasae train``, whose help has all settings, and for --help of ``vasae`` itself."""
    program = (
        "import sys; from vasae_jax.cli.main import main\n"
        "main(['--help'])\n"
        f"try: code = main(['train', {argument!r}])\n"
        "except SystemExit as ended: code = ended.code\n"
        "sys.exit(100 if 'jax' in sys.modules else code)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode == code
