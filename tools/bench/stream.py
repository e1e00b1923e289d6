"""Times the shuffled stream against TensorStore's plain sequential read, in one run.

    python tools/bench/stream.py CACHE --layer 6
    python tools/bench/stream.py --make 1024      # over a made-up cache of that many MiB

Both read the same rows of one layer, turn by turn, so that both see the same machine: the raw
read takes whole shards in storage order and keeps nothing; the stream makes batches, with
norms, positions and documents read and masked too. Files are in the page cache of the
machine unless they exceed its memory, as the first, uncounted turn reads everything once.
``--json`` prints one object instead of a table:

    mib                 read by each side in a turn (activations alone)
    raw_mib_s, stream_mib_s  medians of activations' MiB a second
    raw_share           stream_mib_s / raw_mib_s
    rounds              turns that the medians are over
    batch_bits          entropy of a batch over documents, in bits, mean over batches
    global_bits         the same for batches drawn from a shuffle of all rows
    ordered_bits        the same for rows in storage order
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time

import ml_dtypes
import numpy as np

from vasae_jax.cache import Cache, CachePlan, CacheWriter, ModelInfo, TextInfo
from vasae_jax.cache.vocab import Vocab, Vocabulary
from vasae_jax.config import Mask
from vasae_jax.stream.order import Shuffle
from vasae_jax.stream.stream import Stream, entropy_bits

BATCHES = 32
"""Batches that the entropies are averaged over."""
MASK = Mask(skip_positions=1, max_norm=10.0)
"""Such that positions and norms are read too."""


def main() -> None:
    """Measure one cache and print it."""
    args = parse()
    with tempfile.TemporaryDirectory() as place:
        url = args.cache or make_cache(f"{place}/cache", args.make)
        record = measure(Cache.open(url), args)
    if args.json:
        print(json.dumps(record))
        return
    for key, value in record.items():
        print(f"{key:14} {value}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", nargs="?", help="a cache (default: a made-up one)")
    parser.add_argument("--make", type=int, default=512, help="MiB of a made-up cache")
    parser.add_argument("--layer", type=int, default=0, help="layer that is read")
    parser.add_argument("--batch", type=int, default=4096, help="rows in a batch")
    parser.add_argument("--readers", type=int, default=8, help="parallel readers")
    parser.add_argument(
        "--shuffle-chunks", type=int, default=4, help="chunks that a reader shuffles together"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns to take the median of")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


def make_cache(url: str, mib: int, d: int = 768) -> str:
    """A cache of random rows in documents of about 500 rows; returns its place."""
    plan = CachePlan(
        model=ModelInfo("made up", "", "gpt2", "0" * 64),
        sites=(0,),
        d_model=d,
        vocab_size=8,
        tied=True,
        context_length=128,
        bos=False,
        text=TextInfo("made up", "0" * 64),
        heldout_share=0.1,
    )
    rng = np.random.default_rng(0)
    norm = {"kind": "rmsnorm", "eps": 1e-5, "weight": [1.0] * d, "bias": None}
    vocab = Vocab("plain", tuple("abcdefgh"))
    vocabulary = Vocabulary(np.ones((8, d), np.float32), None, norm, vocab)
    block = rng.standard_normal((plan.shard_rows, d), np.float32).astype(ml_dtypes.bfloat16)
    blocks = max(2, mib * 2**20 // block.nbytes)
    with CacheWriter(url, plan, vocabulary) as writer:
        for index in range(blocks):
            rows = np.arange(index * len(block), (index + 1) * len(block))
            writer.append("train", rows % 8, rows % 128, rows // 500, {0: block})
        writer.finish()
    return url


def measure(cache: Cache, args: argparse.Namespace) -> dict:
    """The object that ``--json`` prints."""
    acts = cache.acts(args.layer, "train")
    batches = max(1, acts.shape[0] // args.batch)
    mib = batches * args.batch * acts.shape[1] * acts.dtype.itemsize / 2**20
    rows = batches * args.batch
    shape = (cache.manifest.shard_rows, acts.shape[1])
    buffers = [np.zeros(shape, acts.dtype) for _ in range(2)]
    shuffle = Shuffle(args.batch, seed=0, readers=args.readers, shuffle_chunks=args.shuffle_chunks)
    stream = Stream(cache, [args.layer], "train", MASK, shuffle)
    taken = iter(itertools.count(0, batches))
    raw, shuffled = [], []
    for turn in range(args.rounds + 1):
        seconds = (
            timed(lambda: read_raw(acts, rows, buffers)),
            timed(lambda: read_batches(stream, next(taken), batches)),
        )
        if turn:
            raw.append(mib / seconds[0])
            shuffled.append(mib / seconds[1])
    both = statistics.median(raw), statistics.median(shuffled)
    return {
        "mib": round(mib),
        "raw_mib_s": round(both[0]),
        "stream_mib_s": round(both[1]),
        "raw_share": round(both[1] / both[0], 3),
        "rounds": args.rounds,
        **quality(cache, stream, args.batch),
    }


def read_raw(acts, rows: int, buffers: list[np.ndarray]) -> None:
    """Rows in storage order, a shard at a time with one read ahead, into memory in use already."""
    shard = len(buffers[0])
    ranges = [(start, min(start + shard, rows)) for start in range(0, rows, shard)]
    pending = []
    for (start, stop), buffer in zip(ranges, itertools.cycle(buffers)):
        if len(pending) == len(buffers):
            pending.pop(0).result()
        pending.append(acts.read_into(start, stop, buffer[: stop - start]))
    for read in pending:
        read.result()


def read_batches(stream: Stream, start: int, count: int) -> None:
    """As many batches as the trainer would take, through the prefetching thread."""
    with stream.prefetch(start) as batches:
        for _ in range(count):
            next(batches)


def quality(cache: Cache, stream: Stream, batch: int) -> dict:
    """How mixed the documents of a batch are, against a shuffle of all and against none."""
    docs = cache.column("docs", "train").read(0, cache.rows("train"))
    starts = range(0, min(len(docs) - batch, BATCHES * batch) + 1, batch)
    shuffled = np.random.default_rng(0).permutation(docs)
    return {
        "batch_bits": round(mean_bits(stream.batch(t).docs for t in range(len(starts))), 3),
        "global_bits": round(mean_bits(shuffled[s : s + batch] for s in starts), 3),
        "ordered_bits": round(mean_bits(docs[s : s + batch] for s in starts), 3),
    }


def mean_bits(batches) -> float:
    """Mean entropy in bits of batches over documents."""
    return float(np.mean([entropy_bits(docs) for docs in batches]))


def timed(run) -> float:
    """Seconds that ``run`` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
