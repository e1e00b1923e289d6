"""Which layers of a model to extract."""

from vasae_jax.system.errors import UserError


def parse_layers(text: str) -> tuple[int, ...] | None:
    """``"3,9"`` as (3, 9), ascending and distinct; ``"all"`` as None; raises UserError."""
    if text.strip() == "all":
        return None
    try:
        layers = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise UserError(
            f"layers {text!r} is no list; expected numbers as in 3,9, or all"
        ) from error
    if layers[0] < 0:
        raise UserError(f"layer {layers[0]} is negative; expected numbers from 0 (the first block)")
    return tuple(layers)


def check_layers(layers: tuple[int, ...] | None, n_layers: int, model: str) -> tuple[int, ...]:
    """The layers as numbers, None being all; raises UserError where the model has none such."""
    if layers is None:
        return tuple(range(n_layers))
    wrong = [layer for layer in layers if not 0 <= layer < n_layers]
    if wrong or not layers:
        raise UserError(
            f"layer {wrong[0] if wrong else 'none'} was asked of {model}, which has {n_layers}; "
            f"expected 0 to {n_layers - 1}"
        )
    return tuple(sorted(set(layers)))
