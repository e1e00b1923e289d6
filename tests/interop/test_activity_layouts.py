"""Layouts that hold what features do on text: their content, and the tools that read them.

The tools conflict with the suite's own packages; .ci/run makes an environment in which nothing is
skipped.
"""

import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from dictionary_fixtures import F, V, dictionary, token_strings
from safetensors.numpy import load

from vasae_jax.dictionary.claims import LAYER_CLAIM
from vasae_jax.interop import circuit_tracer, delphi, neuronpedia
from vasae_jax.interop.activity import Activity
from vasae_jax.interop.delphi import Latents, hookpoint, make_latents
from vasae_jax.interop.folders import META, WRITTEN, write_folder
from vasae_jax.interop.labels import BOUNDARY, claimed, explanation, label
from vasae_jax.utils.errors import UserError

ROWS, LENGTH = 2000, 16
MODULE = "h.3"


def planted(d):
    """Text in which each feature fires at (or just before) its names that hold, and nowhere else.

    Firings have all strengths.
    """
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, ROWS).astype(np.int32)
    after = np.r_[tokens[1:], -1]
    row, feature = [], []
    for one in range(d.d_sae):
        names = d.names(one)
        related = after if names.relation == "before" else tokens
        fires = np.flatnonzero(np.isin(related, [name.token_id for name in claimed(names)]))
        row.append(fires)
        feature.append(np.full(len(fires), one))
    row, feature = np.concatenate(row), np.concatenate(feature)
    activation = rng.uniform(1, 9, len(row)).astype(np.float32)
    kept = np.ones(ROWS, bool)
    return make_latents(tokens, row, feature, activation, kept=kept, longest=LENGTH)


def made_activity():
    """Activity of which the first features never fire, and with text at a window's edge."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, V, (F, 5, 6)).astype(np.int32)
    tokens[:, 0, :2] = -1
    value = -np.sort(-rng.uniform(1, 9, (F, 5)).astype(np.float32))
    value[:2] = 0
    tokens[:2] = -1
    value[2, 3:] = 0
    shade = np.where(rng.random(tokens.shape) < 0.3, 0.5, 0).astype(np.float16)
    shade[:, :, 3] = value
    heads = rng.integers(0, V, (F, 4)).astype(np.int32)
    by = rng.normal(size=(F, 4)).astype(np.float32)
    return Activity(
        vocab=token_strings(),
        tokens=tokens,
        shade=shade,
        value=value,
        fires_at=3,
        top=3,
        histogram=rng.poisson(3, (F, 7)) * (value.max(axis=1) > 0)[:, None],
        raised=heads,
        raised_by=by,
        lowered=heads[:, ::-1],
        lowered_by=-by,
    )


def test_latents_are_all_firings_on_kept_rows_in_the_order_of_the_text():
    rng = np.random.default_rng(2)
    tokens, kept = rng.integers(0, V, 100).astype(np.int32), rng.random(100) < 0.8
    row, feature = np.nonzero(rng.random((100, 6)) < 0.2)
    shuffled = rng.permutation(len(row))
    row, feature = row[shuffled], feature[shuffled]
    activation = rng.uniform(0, 5, len(row)).astype(np.float32)
    found = make_latents(tokens, row, feature, activation, kept=kept, longest=9)
    laid = np.flatnonzero(kept)[: kept.sum() // 9 * 9]
    assert found.tokens.tolist() == tokens[laid].reshape(-1, 9).tolist()
    expected = {
        (*divmod(int(np.flatnonzero(laid == r)[0]), 9), int(f)): a
        for r, f, a in zip(row, feature, activation, strict=True)
        if r in laid
    }
    firings = zip(map(tuple, found.locations.tolist()), found.activations, strict=True)
    assert list(firings) == sorted(expected.items())


@pytest.mark.parametrize(("longest", "length"), [(10, 10), (32, 32), (50, 32), (128, 128)])
def test_sequences_are_whole_numbers_of_delphis_examples(longest, length):
    none = np.zeros(0, np.int64)
    rows = np.arange(300, dtype=np.int32)
    found = make_latents(rows, none, none, none, kept=rows >= 0, longest=longest)
    assert found.tokens.shape == (300 // length, length)


def test_text_shorter_than_a_sequence_is_refused():
    none = np.zeros(0, np.int64)
    with pytest.raises(UserError, match="expected 64 or more"):
        make_latents(np.arange(31), none, none, none, kept=np.ones(31, bool), longest=64)


def test_delphi_files_hold_every_firing_once():
    d = dictionary()
    latents = planted(d)
    content = delphi.files(d, latents)
    back = []
    for name, data in content.items():
        if name.endswith(".safetensors"):
            start, stop = map(int, name.split("/")[-1].split(".")[0].split("_"))
            arrays = load(data)
            assert arrays["locations"][:, 2].max() <= stop - start
            np.testing.assert_array_equal(arrays["tokens"], latents.tokens)
            locations = arrays["locations"].astype(np.int64) + np.array([0, 0, start])
            back += zip(map(tuple, locations.tolist()), arrays["activations"], strict=True)
    firings = zip(map(tuple, latents.locations.tolist()), latents.activations, strict=True)
    assert sorted(back) == sorted(firings)


def test_an_explanation_has_the_names_that_hold_and_no_others():
    d = dictionary()
    texts = {
        name.split("latent")[-1].removesuffix(".txt"): json.loads(data)
        for name, data in delphi.files(d, planted(d)).items()
        if name.startswith("explanations/")
    }
    for feature in range(F):
        held = [
            d.tokens[int(token)][1].replace("␣", " ")
            for token, verdict in zip(
                d.layer_token_ids[feature], d.layer_verdict[feature], strict=True
            )
            if verdict in (1, 2)
        ]
        quoted = " or ".join(f'"{token}"' for token in held)
        place = "The token just before" if d.layer_relation[feature] else "The token"
        assert texts.get(str(feature)) == (f"{place} {quoted}." if held else None)


def test_a_label_has_each_names_own_figures_and_the_claims_boundary_within_its_limit():
    names = dictionary().names(0)
    first, second = claimed(names)
    text = label(names, 512)
    for one in (first, second):
        shares = f"{one.hold:.0%} of its activation, precision {one.precision:.0%}"
        assert f"({one.verdict}: {shares}, recall {one.recall:.0%})" in text
    assert text.endswith(BOUNDARY)
    shorter = label(names, len(text) - 1)
    assert second.text.replace("␣", " ") not in shorter and shorter.endswith(BOUNDARY)
    assert label(names, 20) is None


def test_a_feature_without_a_name_that_holds_has_no_label():
    names = dictionary().names(2)  # its first name does not hold, the others neither
    unheld = replace(names, layer=tuple(replace(n, verdict="does not hold") for n in names.layer))
    assert explanation(unheld) is None and label(unheld, 512) is None


@pytest.mark.parametrize(
    ("family", "site", "name"),
    [("gpt2", "resid_post", "h.3"), ("llama", "resid_post", "layers.3"),
     ("llama", "mlp_out", "layers.3.mlp_out")],
)  # fmt: skip
def test_the_hookpoint_is_the_modules_name(family, site, name):
    d = dictionary()
    origin = d.meta["provenance"]
    changed = origin | {"site": site, "model": origin["model"] | {"family": family}}
    assert hookpoint(replace(d, meta=d.meta | {"provenance": changed})) == name


def block_of_docs(begin):
    """The block of Python of docs/dictionary.md that begins so."""
    page = Path(__file__).parents[2] / "docs" / "dictionary.md"
    blocks = re.findall("```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (block for block in blocks if block.startswith(begin))
    return block


def files_of(layout):
    if layout == "delphi":
        return delphi.files(dictionary(), planted(dictionary()))
    files = {"neuronpedia": neuronpedia.files, "circuit_tracer": circuit_tracer.files}
    return files[layout](dictionary(), made_activity())


@pytest.mark.fault
@pytest.mark.parametrize("layout", sorted(WRITTEN))
def test_a_folder_of_the_layout_alone_is_replaced_and_of_it_what_was_written(tmp_path, layout):
    out, content = tmp_path / "out", files_of(layout)
    write_folder(dictionary(), content, out, layout)
    for name, data in content.items():
        assert (out / name).read_bytes() == data
    meta = json.loads((out / META).read_text(encoding="utf-8"))
    assert (meta["layout"], meta["claim"], meta["features"]) == (layout, LAYER_CLAIM, F)
    assert meta["named"] == sum(bool(claimed(dictionary().names(f))) for f in range(F))
    (out / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="exists already"):
        write_folder(dictionary(), content, out, layout)
    other = next(name for name in WRITTEN if name != layout)
    with pytest.raises(UserError, match=f"not of layout {other}"):
        write_folder(dictionary(), content, out, other, overwrite=True)
    last = list(content)[-1]
    fewer = {name: data for name, data in content.items() if name != last}
    write_folder(dictionary(), fewer, out, layout, overwrite=True)
    left = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert left == {*fewer, META, "note.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.fault
def test_a_folder_that_is_no_layouts_is_kept(tmp_path):
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=META):
        write_folder(dictionary(), {}, tmp_path, "delphi", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_neuronpedias_limits_are_kept(monkeypatch):
    monkeypatch.setattr(neuronpedia, "BATCH", 4)
    activity = made_activity()
    found = [json.loads(data) for data in neuronpedia.files(dictionary(), activity).values()]
    features = [feature for body in found for feature in body["features"]]
    assert [feature["index"] for feature in features] == list(range(2, F))
    for body in found:
        assert len(body["features"]) <= 4
        assert body["modelId"] == body["modelId"].lower() and body["source"] == f"3-vasae-{F}"
    for feature in features:
        assert 0 <= feature["density"] <= 1 and feature["activations"]
        for one in feature["activations"]:
            assert len(one["tokens"]) == len(one["values"]) and all(one["tokens"])
            assert max(one["values"]) > 0
        for one in feature["explanations"]:
            assert 0 < len(one["text"]) <= neuronpedia.LABEL and one["text"].endswith(BOUNDARY)


def test_neuronpedias_own_client_sends_what_was_written(tmp_path, monkeypatch):
    """Its classes made from a file, and what it would send for them."""
    pytest.importorskip("neuronpedia")
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "none")
    from neuronpedia.np_activation import Activation
    from neuronpedia.np_explanation import Explanation
    from neuronpedia.np_feature import Feature, Logit
    from neuronpedia.requests.feature_request import MAX_FEATURES_PER_BATCH, FeatureRequest

    assert neuronpedia.BATCH == MAX_FEATURES_PER_BATCH
    body = json.loads(files_of("neuronpedia")["batch-0.json"])
    of = (body["modelId"], body["source"])
    features = [
        Feature(
            *of,
            index=one["index"],
            density=one["density"],
            activations=[Activation(*of, one["index"], **act) for act in one["activations"]],
            explanations=[Explanation(*of, one["index"], e["text"]) for e in one["explanations"]],
            top_logits=[Logit(**logit) for logit in one["topLogits"]],
            bottom_logits=[Logit(**logit) for logit in one["bottomLogits"]],
        )
        for one in body["features"]
    ]
    sent = []
    monkeypatch.setattr(FeatureRequest, "send_request", lambda self, **what: sent.append(what))
    FeatureRequest().upload_batch(*of, features)
    assert [what["json"] for what in sent] == [body]
    # The block of the docs sends it to the place that it names.
    write_folder(dictionary(), files_of("neuronpedia"), tmp_path / "out/neuronpedia", "neuronpedia")
    monkeypatch.chdir(tmp_path)
    exec(block_of_docs("import json\nfrom pathlib import Path\n\nfrom neuronpedia"))
    moved = {"modelId": "gpt2-small", "source": "9-my-set"}
    assert sent[1] == sent[0] | {"json": body | moved} and len(sent) == 2


def test_circuit_tracers_features_by_their_numbers():
    activity, content = made_activity(), files_of("circuit_tracer")
    labels = dict(json.loads(content["labels.json"]))
    for feature in range(F):
        number = (3 + feature) * (3 + feature + 1) // 2 + feature
        name = f"features/{number}.json"
        assert (name in content) == (activity.value[feature, 0] > 0)
        if name in content:
            found = json.loads(content[name])
            assert found["index"] == feature
            assert found["act_max"] == pytest.approx(float(activity.value[feature, 0]))
            for part in found["examples_quantiles"]:
                for example in part["examples"]:
                    acts = example["tokens_acts_list"]
                    assert len(acts) == len(example["tokens"])
                    assert acts[example["train_token_ind"]] == max(acts)
            assert (str(number) in labels) == bool(claimed(dictionary().names(feature)))


def test_circuit_tracers_own_models_take_features_and_labels():
    models = pytest.importorskip("circuit_tracer.frontend.feature_models")
    graphs = pytest.importorskip("circuit_tracer.frontend.graph_models")
    content = files_of("circuit_tracer")
    for name, data in content.items():
        if name.startswith("features/"):
            assert models.Model.model_validate_json(data, strict=True).model_dump() == json.loads(
                data
            )
    labels = dict(json.loads(content["labels.json"]))
    named = [f for f in range(2, F) if claimed(dictionary().names(f))]
    nodes = [graphs.Node.feature_node(layer=3, pos=0, feat_idx=feature) for feature in named]
    assert [str(node.feature) for node in nodes] == list(labels)


@pytest.fixture
def scorers(monkeypatch):
    """delphi with stand-ins for what only its own models and hard negatives need."""
    if importlib.util.find_spec("delphi") is None:
        pytest.skip("needs eai-delphi")
    needed = {
        "vllm": ["LLM", "SamplingParams"],
        "vllm.distributed": [],
        "vllm.distributed.parallel_state": [
            "destroy_distributed_environment",
            "destroy_model_parallel",
        ],
        "vllm.inputs": ["TokensPrompt"],
        "faiss": [],
        "sentence_transformers": ["SentenceTransformer"],
    }
    for name, attributes in needed.items():
        stand_in = ModuleType(name)
        vars(stand_in).update(dict.fromkeys(attributes, object))
        monkeypatch.setitem(sys.modules, name, stand_in)
    import delphi.scorers

    return delphi.scorers


class Words:
    """A tokenizer."""

    def decode(self, ids):
        return "".join(map(word, ids))


def word(token):
    """A token of the text, which no other is a part of."""
    return f"{token_strings().display(token).replace('␣', ' ')}|"


class Reader:
    """The stub model: it takes an explanation at its word."""

    def __init__(self, response):
        self.response, self.seen = response, []

    async def generate(self, prompt, **_):
        """1 if a named token is in the example, or among the marked ones if there are marks."""
        asked = prompt[-1]["content"]
        said = asked.split("explanation: ")[1].split("\n")[0]
        text = asked.split("Example 0: ", 1)[1]
        marked = "".join(re.findall("<<(.*?)>>", text, re.DOTALL))
        named = [f"{token}|" for token in re.findall('"(.+?)"(?: or|[.])', said)]
        self.seen.append((said, text))
        found = any(token in (marked or text) for token in named)
        return self.response(text=f"[{int(found)}]")


def scores(folder, scorer):
    """What the function of the docs makes of an exported folder."""
    from delphi.config import ConstructorConfig, SamplerConfig

    names = {}
    exec(block_of_docs("import asyncio"), names)
    sampler = SamplerConfig(n_examples_train=4, n_examples_test=8, n_quantiles=4)
    constructor = ConstructorConfig(example_ctx_len=8, min_examples=8, n_non_activating=8)
    return names["score"](folder, Words(), scorer, sampler, constructor)


def tells_apart(d, feature):
    """Whether a reader can find the feature's tokens: not those after an example, or quotes."""
    names = d.names(feature)
    return names.relation == "at" and all('"' not in name.text for name in claimed(names))


@pytest.mark.parametrize("kind", ["DetectionScorer", "FuzzingScorer"])
def test_delphis_own_scorers_find_right_names_right(tmp_path, scorers, kind):
    from delphi.clients.client import Response

    d = dictionary()
    write_folder(d, delphi.files(d, planted(d)), tmp_path / "out", "delphi")
    reader, scored = Reader(Response), set()
    for latent, answers in scores(tmp_path / "out", getattr(scorers, kind)(reader)):
        asked, reader.seen = {said for said, _ in reader.seen}, []
        assert latent.module_name == MODULE
        assert asked == {explanation(d.names(latent.latent_index))}
        assert {one.activating for one in answers} == {True, False}
        if tells_apart(d, latent.latent_index):
            assert all(one.correct for one in answers)
            scored.add(latent.latent_index)
    explained = {f for f in range(F) if explanation(d.names(f))}
    assert scored == {f for f in explained if tells_apart(d, f)} and len(scored) > 4


@pytest.mark.parametrize("kind", ["DetectionScorer", "FuzzingScorer"])
def test_delphis_own_scorers_find_wrong_names_wrong(tmp_path, scorers, kind):
    from delphi.clients.client import Response

    d = dictionary()
    files = delphi.files(d, planted(d))
    wrong = json.dumps('The token "none of these".').encode()
    files |= {name: wrong for name in files if name.startswith("explanations/")}
    write_folder(d, files, tmp_path / "out", "delphi")
    found = list(scores(tmp_path / "out", getattr(scorers, kind)(Reader(Response))))
    assert len(found) > 4
    for _, answers in found:
        assert [one.correct for one in answers] == [not one.activating for one in answers]


def test_delphi_reads_every_firing_and_the_settings(tmp_path, scorers):
    from delphi.config import CacheConfig
    from delphi.latents.loader import TensorBuffer

    d = dictionary()
    latents = planted(d)
    without = latents.locations[:, 2] >= F // 2  # whole files are then without firings
    some = Latents(latents.tokens, latents.locations[without], latents.activations[without])
    write_folder(d, delphi.files(d, some), tmp_path / "out", "delphi")
    folder = tmp_path / "out" / "latents" / MODULE
    found = {}
    for path in folder.glob("*.safetensors"):
        for one in TensorBuffer(str(path), MODULE):
            locations, activations = one.activation_data
            assert set(locations[:, 2].tolist()) == {one.latent.latent_index}
            found |= dict(zip(map(tuple, locations.tolist()), activations.tolist(), strict=True))
    assert found == dict(
        zip(map(tuple, some.locations.tolist()), some.activations.tolist(), strict=True)
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    known = CacheConfig.from_dict(config, drop_extra_fields=True)
    assert (known.cache_ctx_len, known.n_tokens) == (LENGTH, ROWS // LENGTH * LENGTH)
    from delphi.clients.client import Response

    scored = scores(tmp_path / "out", scorers.DetectionScorer(Reader(Response)))
    assert {latent.latent_index for latent, _ in scored} <= set(range(F // 2, F))
