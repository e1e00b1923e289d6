"""Sites: their names, the names that other libraries give them, and which are supported."""

import pytest

from vasae_jax.sites import (
    SITES,
    SUPPORTED,
    Site,
    as_site,
    check_supported,
    hook_name,
    resid_post_layers,
    site_of_hook,
)
from vasae_jax.utils.errors import UserError


@pytest.mark.parametrize("kind", SITES)
def test_a_site_is_read_back_from_its_name(kind):
    site = Site(5, kind)
    assert str(site) == f"layers.5.{kind}" and Site.parse(str(site)) == site
    assert as_site(site) is site and as_site(str(site)) == site


def test_a_layer_alone_stands_for_its_residual_stream():
    assert as_site(3) == Site(3, "resid_post") == Site(3)


@pytest.mark.parametrize("text", ["", "layers.5", "5", "layers.x.resid_post", "layers.5.logits"])
def test_other_names_are_refused(text):
    with pytest.raises(UserError, match="expected"):
        Site.parse(text)


def test_a_negative_layer_is_refused():
    with pytest.raises(UserError, match="-1"):
        Site(-1)


@pytest.mark.parametrize("kind", sorted(set(SITES) - set(SUPPORTED)))
def test_a_kind_that_is_not_supported_is_refused_by_name(kind):
    for refuse in (
        lambda: check_supported(Site(2, kind), "it"),
        lambda: resid_post_layers([Site(2, kind)], "it"),
    ):
        with pytest.raises(UserError, match=rf"it .*layers\.2\.{kind}; expected .*resid_post"):
            refuse()


def test_hooks_of_other_libraries():
    assert hook_name(Site(5)) == "blocks.5.hook_resid_post"
    for name in ("blocks.5.hook_resid_post", "blocks.6.hook_resid_pre", "model.layers.5", "h.5"):
        assert site_of_hook(name, "a file") == Site(5)
    assert site_of_hook("hidden", "a file") is None
    for name in ("blocks.5.hook_mlp_out", "blocks.0.hook_resid_pre", "blocks.5.hook_mlp_in"):
        with pytest.raises(UserError, match=rf"a file reads {name}"):
            site_of_hook(name, "a file")
