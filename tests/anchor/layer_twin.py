"""Layer anchors in plain NumPy float64, row by row: the twin that the fast path must equal."""

from dataclasses import dataclass

import numpy as np
from cache_fixtures import Rows


@dataclass(frozen=True)
class Twin:
    count: np.ndarray
    mean: np.ndarray
    raw: np.ndarray
    """[V, d], each token's mean less the mean of all, 0 where it has none"""
    within: np.ndarray
    rows: np.ndarray
    """[V, d], the anchors"""
    explained: float


def pairs(made: Rows, layer: int, skip: int, max_norm: float):
    """(row, token) for rows at a token and for rows before one."""
    acts = made.acts[layer].astype(np.float64)
    norms = np.linalg.norm(acts.astype(np.float32), axis=1)
    limit = max_norm * np.median(norms[made.positions >= skip]) if max_norm else np.inf
    at, before = [], []
    for i in range(len(acts)):
        if made.positions[i] < skip or norms[i] > limit:
            continue
        at.append((acts[i], made.tokens[i]))
        if i + 1 < len(acts) and made.positions[i + 1] == made.positions[i] + 1:
            before.append((acts[i], made.tokens[i + 1]))
    return at, before


def twin(found, embedding, c=10.0, ridge=1e-3) -> Twin:
    """Of one relation's (row, token) pairs."""
    x = np.stack([row for row, _ in found])
    tokens = np.array([token for _, token in found])
    E = embedding.astype(np.float64) - embedding.astype(np.float64).mean(axis=0)
    mean = x.mean(axis=0)
    count, raw = np.zeros(len(E)), np.zeros(E.shape)
    within = np.zeros((E.shape[1], E.shape[1]))
    for token in range(len(E)):
        mine = x[tokens == token]
        if len(mine):
            count[token], own = len(mine), mine.mean(axis=0)
            raw[token] = own - mean
            within += (mine - own).T @ (mine - own)
    weight = np.diag(count)
    gram = E.T @ weight @ E
    strength = ridge * np.diag(gram).mean()
    predicted = E @ np.linalg.solve(gram + strength * np.eye(len(gram)), E.T @ weight @ raw)
    missed = (count * ((raw - predicted) ** 2).sum(axis=1)).sum()
    explained = 1 - missed / (count * (raw**2).sum(axis=1)).sum()
    rows = (count[:, None] * raw + c * predicted) / (count[:, None] + c)
    return Twin(count, mean, raw, within / len(x), rows, explained)
