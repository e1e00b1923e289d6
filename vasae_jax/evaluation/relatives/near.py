"""Features whose decoder rows point most nearly the same way, in one dictionary or another."""

import jax
import numpy as np
from jax.sharding import Mesh

from vasae_jax.naming.nearest import Names, nearest_tokens


def near_features(w_dec: np.ndarray | jax.Array, m: int, mesh: Mesh | None = None) -> Names:
    """The ``m`` other features of largest decoder cosine to each of F, or F - 1 if there are fewer.

    Args:
        w_dec: [F, d] decoder rows.
        m: features wanted.
        mesh: devices that split the features.

    Raises:
        UserError: a row is not finite.
    """
    features = w_dec.shape[0]
    m = min(m, features - 1)
    found = nearest_tokens(w_dec, w_dec, m + 1, mesh=mesh)
    own = found.ids == np.arange(features, dtype=np.int32)[:, None]
    # Equal rows may push a feature out of its own list: then the last one goes instead.
    own[:, -1] |= ~own.any(axis=1)
    keep = ~own
    return Names(found.ids[keep].reshape(features, m), found.cosines[keep].reshape(features, m))


def matches(
    w_dec: np.ndarray | jax.Array,
    other: np.ndarray | jax.Array,
    fires: np.ndarray,
    mesh: Mesh | None = None,
) -> Names:
    """The firing feature of another dictionary of largest decoder cosine to each of F; [F, 1].

    Args:
        w_dec: [F, d] decoder rows.
        other: [G, d] those of the other one.
        fires: bool [G], which of them fire; if none does, nothing matches: ids are -1.
        mesh: devices that split the features.

    Raises:
        UserError: the widths differ, or a row is not finite.
    """
    places = np.flatnonzero(fires)
    if not len(places):
        return Names(np.full((len(w_dec), 1), -1, np.int32), np.zeros((len(w_dec), 1), np.float32))
    found = nearest_tokens(w_dec, np.asarray(other)[places], 1, mesh=mesh)
    return Names(places[found.ids].astype(np.int32), found.cosines)
