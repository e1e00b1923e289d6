"""What is published of places: no directory, and of the hub the whole name."""

from dataclasses import fields, replace
from typing import get_type_hints

import pytest

from vasae_jax.config import Config
from vasae_jax.config.overrides import to_dict
from vasae_jax.utils.public import (
    public_import,
    public_meta,
    public_model,
    public_settings,
    public_text,
)

PLACES = (
    "/home/alice/secret/book",
    "home/alice/secret/book/",
    "~/alice/secret/book",
    "C:\\Users\\alice\\secret\\book",
    "gs://alice-secret/book",
    "file:///home/alice/secret/book",
)
WORDS = {"sae.activation"}
"""Settings that are text and name something of this program."""


@pytest.mark.fault
@pytest.mark.parametrize("place", PLACES)
def test_of_a_place_the_last_part_is_published(place):
    assert public_text(place) == "book" and public_text(f"rows of {place}") == "rows of book"
    assert public_model(place) == "book"
    if not place.startswith("home"):  # a relative path of an import is one of the hub
        assert public_import(place) == "book"


def test_names_of_the_hub_and_built_in_texts_stay():
    for name in ("hf:owner/name", "hf:owner/name/config", "hf:name", "english", "pydoc-topics"):
        assert public_text(name) == name
    assert public_text("hf:/home/alice/data") == "data"
    for name in ("owner/name", "gpt2", "SmolLM2-135M.Q4"):
        assert public_model(name) == name
    assert public_import("owner/name/layer_3/width_16k") == "owner/name/layer_3/width_16k"


@pytest.mark.fault
def test_every_setting_that_is_free_text_is_made_public():
    secret, config = "/home/alice/secret/x", Config()
    for section in fields(config):
        part = getattr(config, section.name)
        free = [
            name
            for name, hint in get_type_hints(type(part)).items()
            if hint is str and f"{section.name}.{name}" not in WORDS
        ]
        config = replace(config, **{section.name: replace(part, **dict.fromkeys(free, secret))})
    assert "alice" in str(to_dict(config))
    assert "alice" not in str(public_settings(to_dict(config)))


def test_what_is_no_meta_of_ours_stays_as_it_is():
    for meta in ({}, {"provenance": 3}, {"provenance": {"model": None, "text": {"source": 5}}}):
        assert public_meta(meta) == meta
