"""Names by evidence and their counts by plain loops, one feature and one token at a time."""

import numpy as np

from vasae_jax.names.counts import FiringCounter


class Text:
    """Rows with their tokens and next tokens, and features that fire on some of them."""

    def __init__(self, token, next_token, activation):
        """``activation`` [rows, F]: a feature fires where its is above 0."""
        self.token = np.asarray(token, np.int32)
        self.next_token = np.asarray(next_token, np.int32)
        self.activation = np.asarray(activation, np.float32)

    def counts(self, vocab_size, step=7):
        """What the program counts, ``step`` rows at a time."""
        rows, features = self.activation.shape
        counter = FiringCounter(features, vocab_size)
        order = np.argsort(-self.activation, axis=1, kind="stable")
        values = np.take_along_axis(self.activation, order, axis=1)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            counter.add(values[part], order[part], self.token[part], self.next_token[part])
        return counter.counts()

    def related(self, relation):
        """Of each row, the token in a relation."""
        return self.token if relation == 0 else self.next_token


def plain_counts(text, vocab_size):
    """{(relation, feature, token): [rows fired, activation]} and {(relation, token): rows}."""
    pairs, rows = {}, {}
    for relation in (0, 1):
        for row, token in enumerate(text.related(relation).tolist()):
            if token < 0:
                continue
            rows[relation, token] = rows.get((relation, token), 0) + 1
            for feature, value in enumerate(text.activation[row].tolist()):
                if value > 0:
                    pair = pairs.setdefault((relation, feature, token), [0, 0.0])
                    pair[0] += 1
                    pair[1] += value
    return pairs, rows


def plain_f1(text, relation, feature, names, fewer=0):
    """F1 of "the row's token in the relation is among ``names``", row by row.

    Each name has ``fewer`` hits less; one that is chosen has one hit at least.
    """
    hits = named = fired = 0
    for row, token in enumerate(text.related(relation).tolist()):
        fires = text.activation[row, feature] > 0
        hits += fires and token in names
        named += token in names
        fired += fires
    hits -= fewer * len(names)
    return 2 * hits / (named + fired) if named + fired else 0.0


def plain_names(text, feature, vocab_size, m, gain):
    """The greedy names of a feature, every token a candidate: relation and tokens."""
    best = []
    for relation in (0, 1):
        names, f1 = [], 0.0
        while len(names) < m:
            free = [token for token in range(vocab_size) if token not in names]
            found = [plain_f1(text, relation, feature, [*names, token]) for token in free]
            top = max(found)
            if not top > f1 * (1 + gain):
                break
            names.append(free[found.index(top)])
            f1 = top
        best.append((plain_f1(text, relation, feature, names, fewer=1), f1, names))
    relation = int(best[1][:2] > best[0][:2])
    return relation, best[relation][2]
