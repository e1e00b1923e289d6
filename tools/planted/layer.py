"""A layer whose features are known: real text, and rows that planted features add up to.

The tokens are those of the English text that ships with the package. Each planted feature has a
direction, and a rule that says on which rows it may fire:

    token      at one token
    tokens     at any of two to six tokens
    before     on the row before one token
    pair       at one token where another one comes before it
    context    on stretches of text that have nothing to do with their tokens
    dense      anywhere, and often

On such a row it fires with a probability of its own, and by a random amount. A row is the mean of
all, the sum of the amounts times the directions, and noise:

    rows = mean + activations directions + noise.

A quarter of the frequent tokens, BARE, have no feature at them; another quarter none before them. A
learned feature that fires at such a token and at no other was made by training, not found.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from vasae_jax.cache import Cache, CachePlan, CacheWriter, ModelInfo, TextInfo
from vasae_jax.cache.vocab import Vocab, Vocabulary
from vasae_jax.dictionary.claims import AT, BEFORE
from vasae_jax.extract import read_documents
from vasae_jax.extract.windows import Windows, make_windows
from vasae_jax.stream.order import next_tokens

TOKEN, TOKENS, BEFORE_TOKEN, PAIR, CONTEXT, DENSE = range(6)
KINDS = ("token", "tokens", "before", "pair", "context", "dense")
"""Kinds of planted features in words, by number; the last two have no token."""
CONTEXT_LENGTH = 128
HELDOUT = 0.2
"""Share of the documents that are held out."""
BARE = 0.25
"""Share of the frequent tokens at which nothing is planted; as large a share has nothing before."""

# What follows was measured on layer 20 of SmolLM2-135M-Instruct (576 wide), on rows of speeches,
# with a TopK SAE of 4096 features and k 32 that was trained without a pull (the preset `plain`, the
# run of docs/names.md). `python tools/planted/planted.py --like RUN` prints these figures of a run.
RATE, RATE_SPREAD = 0.0024, 1.3
"""Median firing rate, and the standard deviation of its logarithm."""
DENSE_RATES = (0.05, 0.4)
"""Firing rates of dense features, of which most are near the lower: a fortieth of all features,
which are a third of all firings."""
DENSE_SCALE = 0.8
"""Mean activation of dense features over that of the others (medians)."""
AMPLITUDE_SPREAD = 0.35
"""Standard deviation, over features, of the logarithm of the mean activation."""
TOKEN_SCALE = 1.5
"""The same for features at tokens: the token then tells 41% of the rows' variance. In the real
layer it tells 54%, where features at tokens are not stronger but more."""
WITHIN_SPREAD = 0.5
"""Standard deviation of a feature's activation where it fires, over its mean. Learned ones have
0.62, which includes what the SAE adds."""
SPECTRUM = 0.55
"""Directions are random with variances j^-SPECTRUM, so that two of them have a cosine of 1.35 times
that of isotropic ones (root mean square), as decoder rows have."""
MEAN_NORM = 1.16
"""Length of the mean row over the root mean square distance of rows from it."""


@dataclass(frozen=True)
class Settings:
    """How large a layer is, and how much of what is planted: the real one by two ninths."""

    d_model: int = 128
    vocab_size: int = 4096
    counts: tuple[int, ...] = (220, 200, 130, 80, 260, 20)
    """Features of each kind."""
    frequent: int = 500
    """Tokens, the most frequent, that planted features may have."""
    noise: float = 0.1
    """Share of the rows' variance that is noise."""
    documents: int | None = None
    """Documents of the text that are used, the first; None: all of them."""


@dataclass(frozen=True)
class Text:
    """The rows' tokens, in windows, and the strings of the vocabulary."""

    windows: Windows
    strings: tuple[str, ...]

    @property
    def token(self) -> np.ndarray:
        """int32 [N], each row's token."""
        return self.windows.tokens

    @cached_property
    def position(self) -> np.ndarray:
        """int64 [N], each row's place in its window."""
        starts = np.repeat(self.windows.starts[:-1], self.windows.lengths)
        return np.arange(len(self.token)) - starts

    @cached_property
    def next_token(self) -> np.ndarray:
        """int32 [N], the token after it in its window, -1 at a window's end."""
        return next_tokens(self.token, self.position)

    @cached_property
    def before_token(self) -> np.ndarray:
        """int32 [N], the token before it in its window, -1 at a window's start."""
        return np.where(self.position == 0, -1, np.roll(self.token, 1))

    @cached_property
    def heldout(self) -> np.ndarray:
        """bool [N], whether a row's document is held out."""
        return np.repeat(self.windows.heldout, self.windows.lengths)


def read_text(settings: Settings) -> Text:
    """The shipped English text in tokens of a byte-level BPE that is trained on it."""
    documents = [str(document) for document in read_documents("english")][: settings.documents]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocab_size, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents, trainer)
    windows = make_windows(
        documents,
        lambda text: list(tokenizer.encode(text).ids),
        CONTEXT_LENGTH,
        heldout_share=HELDOUT,
    )
    strings = tuple(str(tokenizer.id_to_token(token)) for token in range(settings.vocab_size))
    return Text(windows, strings)


@dataclass(frozen=True)
class Rule:
    """On which rows a planted feature may fire."""

    kind: int
    tokens: tuple[int, ...] = ()
    """Those it fires at, or before; none for a kind without a token."""
    after: int = -1
    """The token that must come before, of a pair."""

    @property
    def relation(self) -> int:
        """The relation in which its tokens are its names."""
        return BEFORE if self.kind == BEFORE_TOKEN else AT


@dataclass(frozen=True)
class Layer:
    """A planted layer: N rows, P features."""

    text: Text
    rules: tuple[Rule, ...]
    directions: np.ndarray
    """float32 [P, d], unit rows"""
    activations: scipy.sparse.csr_matrix
    """float32 [N, P]"""
    noise: np.ndarray
    """float32 [N, d]"""
    mean: np.ndarray
    """float32 [d]"""

    @cached_property
    def kinds(self) -> np.ndarray:
        """int [P], the kind of each feature."""
        return np.array([rule.kind for rule in self.rules])

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """float32 [n, d], the rows at the indices ``chosen`` [n]."""
        return self.mean + self.activations[chosen] @ self.directions + self.noise[chosen]


def plant(settings: Settings, seed: int) -> Layer:
    """The layer that ``settings`` and ``seed`` describe; the same again gives the same."""
    rng = np.random.default_rng(seed)
    text = read_text(settings)
    rules = make_rules(text, settings, rng)
    directions = _directions(len(rules), settings.d_model, rng)
    activations = _activations(text, rules, rng)
    signal = activations @ directions
    variance = float(np.sum(signal.var(axis=0, dtype=np.float64)))
    noise = _noise(signal.shape, variance * settings.noise / (1 - settings.noise), rng)
    mean = _spectral(1, settings.d_model, rng)[0]
    length = MEAN_NORM * np.sqrt(variance / (1 - settings.noise))
    mean = (mean * length / np.linalg.norm(mean)).astype(np.float32)
    return Layer(text, rules, directions, activations, noise, mean)


# Rules: which tokens have features.


def make_rules(text: Text, settings: Settings, rng: np.random.Generator) -> tuple[Rule, ...]:
    """As many rules of each kind as the settings say, in the order of the kinds."""
    counts = np.bincount(text.token, minlength=settings.vocab_size)
    frequent = np.argsort(-counts, kind="stable")[: settings.frequent]
    at, before = (_not_bare(frequent, rng) for _ in range(2))
    singles, sets, befores, pairs, contexts, dense = settings.counts
    rules = [Rule(TOKEN, (t,)) for t in _draw(at, counts, singles, rng)]
    for _ in range(sets):
        rules.append(Rule(TOKENS, _draw(at, counts, int(rng.integers(2, 7)), rng)))
    rules += [Rule(BEFORE_TOKEN, (t,)) for t in _draw(before, counts, befores, rng)]
    rules += _pairs(text, at, pairs, rng)
    return (*rules, *[Rule(CONTEXT)] * contexts, *[Rule(DENSE)] * dense)


def _not_bare(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.sort(rng.permutation(tokens)[int(BARE * len(tokens)) :])


def _draw(
    tokens: np.ndarray, counts: np.ndarray, size: int, rng: np.random.Generator
) -> tuple[int, ...]:
    """Different tokens, each the likelier the more frequent it is (by the root of its count)."""
    weight = np.sqrt(counts[tokens])
    chosen = rng.choice(tokens, min(size, len(tokens)), replace=False, p=weight / weight.sum())
    return tuple(int(token) for token in chosen)


def _pairs(text: Text, at: np.ndarray, size: int, rng: np.random.Generator) -> list[Rule]:
    """Pairs of tokens that are frequent, the second often without the first."""
    vocab_size = len(text.strings)
    inside = np.isin(text.token, at) & (text.before_token >= 0)
    key = text.before_token[inside].astype(np.int64) * vocab_size + text.token[inside]
    pairs, counts = np.unique(key, return_counts=True)
    first, second = np.divmod(pairs, vocab_size)
    of_second = np.bincount(text.token, minlength=vocab_size)[second]
    usual = np.flatnonzero((counts >= PAIR_ROWS) & (counts <= PAIR_SHARE * of_second))
    chosen = _draw(usual, counts, size, rng)
    return [Rule(PAIR, (int(second[i]),), int(first[i])) for i in chosen]


PAIR_ROWS = 40
"""Rows of a pair, at least."""
PAIR_SHARE = 0.5
"""Rows of a pair, at most, as a share of the rows of its second token."""


# Activations: on which rows features fire, and by how much.


class RowsByToken:
    """The rows of each token, ascending; ``of(token)`` may be asked for any token."""

    def __init__(self, tokens: np.ndarray) -> None:
        self._order = np.argsort(tokens, kind="stable")
        self._sorted = tokens[self._order]

    def of(self, token: int) -> np.ndarray:
        """int64 [n]"""
        low, high = np.searchsorted(self._sorted, [token, token + 1])
        return self._order[low:high]


def _activations(
    text: Text, rules: tuple[Rule, ...], rng: np.random.Generator
) -> scipy.sparse.csr_matrix:
    """What fires on each row, float32 [N, P]."""
    at, before = RowsByToken(text.token), RowsByToken(text.next_token)
    rows: list[np.ndarray] = []
    for index, rule in enumerate(rules):
        if rule.kind == CONTEXT:
            inside = _parent(rules, rows, index, rng)
            fires = _stretches(len(text.token), inside, rng)
        elif rule.kind == DENSE:
            low, high = DENSE_RATES
            rate = low * (high / low) ** (rng.random() ** 2)
            fires = np.flatnonzero(rng.random(len(text.token)) < rate)
        else:
            fires = _some(allowed_rows(text, rule, at, before), rng.uniform(*HIT), rng)
        rows.append(fires)
    scales = np.exp(AMPLITUDE_SPREAD * rng.standard_normal(len(rules)))
    for scale, kinds in ((TOKEN_SCALE, (TOKEN, TOKENS)), (DENSE_SCALE, (DENSE,))):
        scales[[rule.kind in kinds for rule in rules]] *= scale
    return _amounts(rows, scales, len(text.token), rng)


def allowed_rows(text: Text, rule: Rule, at: RowsByToken, before: RowsByToken) -> np.ndarray:
    """The rows on which a rule with tokens lets its feature fire, ascending."""
    index = before if rule.relation == BEFORE else at
    rows = np.sort(np.concatenate([index.of(token) for token in rule.tokens]))
    return rows[text.before_token[rows] == rule.after] if rule.kind == PAIR else rows


def _some(rows: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    return rows[rng.random(len(rows)) < probability]


HIT = (0.6, 1.0)
"""Probabilities with which features fire on a row that their rule allows."""
CHILDREN = 0.25
"""Share of the contexts that fire only where another one does."""
STRETCHES = (1, 4, 16, 64)
"""Mean lengths of a context's stretches, in rows, each as often."""


def _parent(
    rules: tuple[Rule, ...], rows: list[np.ndarray], index: int, rng: np.random.Generator
) -> np.ndarray | None:
    """The rows of an earlier context that this one is a part of; None if it is none's."""
    first = next(i for i, rule in enumerate(rules) if rule.kind == CONTEXT)
    if index == first or rng.random() >= CHILDREN:
        return None
    return rows[int(rng.integers(first, index))]


def _stretches(count: int, inside: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """The rows of stretches at random places, or about half of those that a parent fires on."""
    if inside is not None:
        return _some(inside, 0.5, rng)
    rate = np.clip(RATE * np.exp(RATE_SPREAD * rng.standard_normal()), RATE / 6, DENSE_RATES[0])
    length, hit = int(rng.choice(STRETCHES)), rng.uniform(*HIT)
    starts = np.flatnonzero(rng.random(count) < rate / (hit * length))
    ends = np.minimum(starts + rng.geometric(1 / length, len(starts)), count)
    change = np.bincount(starts, minlength=count + 1) - np.bincount(ends, minlength=count + 1)
    return _some(np.flatnonzero(np.cumsum(change[:count]) > 0), hit, rng)


def _amounts(
    rows: list[np.ndarray], scales: np.ndarray, count: int, rng: np.random.Generator
) -> scipy.sparse.csr_matrix:
    """Activations of the features at their ``rows``, of mean ``scales`` [P]."""
    column = np.repeat(np.arange(len(rows)), [len(fires) for fires in rows])
    shape = WITHIN_SPREAD**-2
    values = rng.gamma(shape, 1 / shape, len(column)) * scales[column]
    places = (np.concatenate(rows), column)
    return scipy.sparse.csr_matrix((values.astype(np.float32), places), (count, len(rows)))


# Directions and noise.


def _spectral(count: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Random rows [count, d] whose variances fall as SPECTRUM says, of length 1 on average."""
    variance = np.arange(1, d + 1) ** -SPECTRUM
    return rng.standard_normal((count, d)) * np.sqrt(variance / variance.sum())


def _directions(count: int, d: int, rng: np.random.Generator) -> np.ndarray:
    rows = _spectral(count, d, rng)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _noise(shape: tuple[int, ...], variance: float, rng: np.random.Generator) -> np.ndarray:
    return (_spectral(*shape, rng) * np.sqrt(variance)).astype(np.float32)


# The cache.


def write_cache(layer: Layer, url: str, settings: Settings) -> Cache:
    """Write the layer's rows as an activation cache with one site, block 0; replaces an old one."""
    d, text = settings.d_model, layer.text
    plan = CachePlan(
        model=ModelInfo("planted features", "", "gpt2", "0" * 64),
        sites=(0,),
        d_model=d,
        vocab_size=settings.vocab_size,
        tied=True,
        dtype="float32",
        context_length=CONTEXT_LENGTH,
        bos=False,
        text=TextInfo("english", text.windows.digest),
        heldout_share=HELDOUT,
        computed="made up",
    )
    docs = np.repeat(text.windows.docs, text.windows.lengths)
    with CacheWriter(url, plan, _vocabulary(text, d), overwrite=True) as writer:
        for split in ("train", "heldout"):
            rows = np.flatnonzero(text.heldout == (split == "heldout"))
            for piece in np.array_split(rows, max(1, len(rows) // 8192)):
                columns = (text.token[piece], text.position[piece], docs[piece])
                writer.append(split, *columns, {0: layer.rows(piece)})
        writer.finish()
    return Cache.open(url)


def _vocabulary(text: Text, d: int) -> Vocabulary:
    """The text's tokens with random embeddings: names by embedding mean nothing here."""
    embedding = np.random.default_rng(0).standard_normal((len(text.strings), d)) / np.sqrt(d)
    norm = {"kind": "rmsnorm", "eps": 1e-5, "weight": [1.0] * d, "bias": None}
    vocab = Vocab("byte_level", text.strings)
    return Vocabulary(embedding.astype(np.float32), None, norm, vocab)
