"""Made-up layer anchors and SAEs, and their names by a plain loop over features in float64."""

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from vasae_jax.anchor.layer_rows import Origin
from vasae_jax.anchor.token_means import LayerAnchors, TokenMeans
from vasae_jax.names.by_layer import LIFT

D, V, F, K = 8, 60, 40, 4


def make_anchors(seed=0, tokens=V, nothing_follows=False):
    """Anchors of ``tokens`` tokens, of which each tenth is unseen, and others seldom."""
    rng = np.random.default_rng(seed)
    fields = {}
    for relation in ("at", "before"):
        count = rng.geometric(0.02, tokens) * (rng.random(tokens) > 0.1)
        root = rng.normal(size=(D, D)) * 0.25
        within = (root @ root.T + 0.05 * np.eye(D)).astype(np.float32)
        if relation == "before" and nothing_follows:
            count, within = count * 0, within * 0
        fields[relation] = TokenMeans(
            rows=rng.normal(size=(tokens, D)).astype(np.float32),
            count=count.astype(np.int64),
            mean=rng.normal(size=D).astype(np.float32),
            within=within,
            explained=0.5,
        )
    return LayerAnchors(origin=Origin("00", "layers.1.resid_post", 1, 3.0), **fields)


def make_params(anchors, features=F, seed=1, bias=-1.5):
    """Half of the features look for a token's own rows, half for the rows before it."""
    rng = np.random.default_rng(seed)
    relations = (anchors.at.rows, anchors.before.rows)
    at, before = (rows[rng.integers(0, len(rows), features)] for rows in relations)
    own = np.where(np.arange(features)[:, None] % 2, before, at)
    return {
        "W_enc": (own / 2 + rng.normal(size=own.shape) * 0.2).astype(np.float32),
        "b_enc": (bias + rng.normal(size=features) * 0.3).astype(np.float32),
        "b_dec": rng.normal(size=D).astype(np.float32),
    }


class PlainRelation:
    """One relation's names, feature by feature.

    Attributes:
        seen: tokens with rows. p: [V]. bar: the number, or [F] thresholds. share: [F, V], expected.
        score: [F, V], -inf where a token is unseen. scatter: [F]. pre: [F, V].
    """

    def __init__(self, params, k, pre_bias, anchors, relation, sample=512):
        means = getattr(anchors, relation)
        rows, mean, within = (
            getattr(means, part).astype(np.float64) for part in ("rows", "mean", "within")
        )
        count = means.count
        wide = {name: value.astype(np.float64) for name, value in params.items()}
        features = len(wide["b_enc"])
        self.seen = np.flatnonzero(count)
        self.p = count / count.sum()
        self.pre = np.zeros((features, len(rows)))
        self.within_cov = np.zeros(features)
        for i in range(features):
            w = wide["W_enc"][i]
            self.within_cov[i] = np.sqrt(w @ within @ w)
            self.pre[i] = (rows + mean - pre_bias * wide["b_dec"]) @ w + wide["b_enc"][i]
        step = -(-features // sample)
        if "threshold" in wide:
            self.bar = np.maximum(wide["threshold"], 0)
        else:
            self.bar = self._bar(np.arange(0, features, step), k, features)
        bars = np.broadcast_to(self.bar, features)
        self.share = np.zeros_like(self.pre)
        self.score = np.full_like(self.pre, -np.inf)
        for i in range(features):
            z = (self.pre[i] - bars[i]) / self.within_cov[i]
            above = self.pre[i] * norm.cdf(z) + self.within_cov[i] * norm.pdf(z)
            mass = self.p * np.maximum(above, 0)
            self.share[i] = mass / max(mass.sum(), 1e-30)
            self.score[i, self.seen] = (self.share[i] - LIFT * self.p)[self.seen]

    def _bar(self, some, k, features):
        def firing(bar):
            z = (self.pre[some][:, self.seen] - bar) / self.within_cov[some][:, None]
            return norm.cdf(z) @ self.p[self.seen]

        def excess(bar):
            return firing(bar).sum() - k * len(some) / features

        return brentq(excess, 0, 1000, xtol=1e-12) if excess(0) > 0 else 0.0

    def best(self, m):
        """ids [F, m], best first; equal scores go to the lower id."""
        return np.argsort(-self.score, axis=1, kind="stable")[:, :m]

    def worth(self, m):
        """[F], what the m best have above three times their share of the text."""
        best = np.take_along_axis(self.score, self.best(m), axis=1)
        return np.maximum(best, 0).sum(axis=1)
