"""Activation functions by name: which features fire on a row. Importing it loads no JAX."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from vasae_jax.activations.base import Activation as Activation
from vasae_jax.activations.jumprelu import JumpReLU as JumpReLU
from vasae_jax.activations.jumprelu import ReLU as ReLU
from vasae_jax.activations.topk import TopK as TopK
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.typed import check_fields

ACTIVATIONS: dict[str, type[Activation]] = {"topk": TopK, "jumprelu": JumpReLU, "relu": ReLU}
"""Every activation by the name that ``--sae.activation`` takes."""


def activation_of(settings: Any) -> Activation:
    """The activation of an SAE with these ``settings`` (a ``SAEConfig``).

    Raises:
        UserError: ``settings.activation`` is not in ACTIVATIONS.
    """
    kind = activation_kind(settings.activation)
    names = [field.name for field in fields(kind) if hasattr(settings, field.name)]
    return kind(**{name: getattr(settings, name) for name in names})


def from_json(record: Mapping[str, Any]) -> Activation:
    """The activation that :meth:`Activation.to_json` described.

    Raises:
        UserError: its kind is not in ACTIVATIONS, or a field is of another type. TypeError: it has
            other fields.
    """
    kind = activation_kind(record["kind"])
    activation = kind(**{name: value for name, value in record.items() if name != "kind"})
    check_fields(activation, f"activation {kind.kind}")
    return activation


def activation_kind(name: str) -> type[Activation]:
    """The class of that name; UserError where there is none."""
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise UserError(f"activation {name!r} is not known; expected one of {known}")
    return ACTIVATIONS[name]
