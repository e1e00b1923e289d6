"""Sites: the places in a language model whose rows are extracted, trained on and patched.

A site is a block and a place in it, written ``layers.5.resid_post``. It is the key of an array in
a cache, of a hook in every backend, of a patch, and of what is kept beside a cache.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from vasae_jax.utils.errors import UserError

Kind = Literal["resid_pre", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post"]
"""Places in a block, in the order in which it computes them: the residual stream as it enters, what
attention adds to it, the stream after that, the normalised rows that the MLP reads, what the MLP
adds, and the stream as it leaves."""
SITES: tuple[str, ...] = get_args(Kind)
"""Every kind of site."""
SUPPORTED: tuple[str, ...] = ("resid_post",)
"""The kinds that all backends can extract and patch. Others are refused by check_supported alone;
docs/dev/extend.md says what a new one needs."""


@dataclass(frozen=True, order=True)
class Site:
    """A place in a block of a language model.

    Attributes:
        layer: the block, 0 being the first.
        kind: one of SITES.

    Raises:
        UserError: the layer is negative, or there is no such kind.
    """

    layer: int
    kind: str = "resid_post"

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise UserError(f"layer {self.layer} is negative; expected 0 (the first block) or more")
        if self.kind not in SITES:
            raise UserError(f"site is {self.kind!r}; expected one of {', '.join(SITES)}")

    def __str__(self) -> str:
        return f"layers.{self.layer}.{self.kind}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """The site that ``str`` wrote, such as ``layers.5.resid_post``; raises UserError."""
        match = re.fullmatch(r"layers\.(\d+)\.(\w+)", text)
        if match is None:
            raise UserError(f"site is {text!r}; expected one such as layers.5.resid_post")
        return cls(int(match[1]), match[2])


SiteLike = Site | str | int
"""What stands for a site: itself, its name, or a layer's number for its ``resid_post``."""


def as_site(site: SiteLike) -> Site:
    """The site that ``site`` stands for; raises UserError."""
    if isinstance(site, Site):
        return site
    return Site.parse(site) if isinstance(site, str) else Site(int(site))


def as_sites(sites: Iterable[SiteLike]) -> tuple[Site, ...]:
    """:func:`as_site` of each."""
    return tuple(map(as_site, sites))


def check_supported(site: Site, where: str) -> Site:
    """``site`` itself; UserError, which begins with ``where``, for a kind that is not supported."""
    if site.kind not in SUPPORTED:
        raise UserError(
            f"{where} is {site}; expected a site of kind {' or '.join(SUPPORTED)} "
            "(other kinds are not supported yet)"
        )
    return site


def resid_post_layers(sites: Iterable[SiteLike], where: str) -> tuple[int, ...]:
    """The layers of ``sites``, for a model with a hook for ``resid_post`` alone.

    Raises:
        UserError: a site of another kind; the sentence begins with ``where``.
    """
    chosen = as_sites(sites)
    for site in chosen:
        if site.kind != "resid_post":
            raise UserError(f"{where} has no hook for {site}; expected a site of kind resid_post")
    return tuple(site.layer for site in chosen)


# The names of sites in other libraries.


def hook_name(site: Site) -> str:
    """TransformerLens' name of ``site``, such as ``blocks.5.hook_resid_post``."""
    return f"blocks.{site.layer}.hook_{site.kind}"


def site_of_hook(hook: str, where: object) -> Site | None:
    """The site that another library calls ``hook``; None where it says nothing of a layer.

    TransformerLens' ``hook_resid_pre`` of a block is the output of the one before it. A module's
    name, such as ``model.layers.5``, ``h.5`` or ``gpt_neox.layers.5``, means that block's output.

    Args:
        hook: a hook's or a module's name.
        where: the file that says so, for messages.

    Raises:
        UserError: the place is no site, or one that is not supported.
    """
    if match := re.fullmatch(r"blocks\.(\d+)\.hook_(\w+)", hook):
        layer, kind = int(match[1]), match[2]
        if kind == "resid_pre" and layer:
            return Site(layer - 1)
        # TransformerLens' hook_mlp_in comes before the norm, the site of that name after it.
        if kind in SITES and kind != "mlp_in":
            return check_supported(Site(layer, kind), f"{where} reads {hook}, which")
    if match := re.fullmatch(r"(?:[a-z_]+\.)*(?:layers|h|blocks)[._](\d+)(?:\.output)?", hook):
        return Site(int(match[1]))
    if not re.search(r"\d", hook) and not hook.startswith("hook"):
        return None
    raise UserError(
        f"{where} reads {hook}; expected the residual stream after a block, "
        "as blocks.5.hook_resid_post or layers.5"
    )
