"""Checking every byte of a cache."""

from collections.abc import Callable, Iterator

import numpy as np

from vasae_jax.cache.manifest import MANIFEST, Manifest, checksum, decode, shard_key
from vasae_jax.cache.reader import Cache, RowArray
from vasae_jax.cache.store import Store
from vasae_jax.cache.writer import row_norms
from vasae_jax.sites import Site
from vasae_jax.utils.errors import UserError
from vasae_jax.utils.progress import Progress


def verify(url: str) -> list[str]:
    """Read a cache completely and list what is wrong with it.

    Checked: the manifest's checksum; the SHA-256 of every shard file; each chunk's crc32c;
    the number of rows, documents and shards; that rows are finite and have the norms
    stored; that tokens lie in the vocabulary; the digests of the vocabulary; that no
    document lies in two splits. Progress is shown on stderr.

    Returns:
        One sentence for each problem, with the file's name; empty for a sound cache.

    Raises:
        UserError: there is no complete cache at all.
    """
    cache, store = Cache.open(url), Store(url)
    problems = []
    value = decode(store.read(MANIFEST) or b"", store.name(MANIFEST))
    if value.get("checksum") != checksum(value):
        problems.append(f"{store.name(MANIFEST)} does not have the checksum it states")
    damaged = list(_file_problems(store, cache.manifest))
    problems += [*damaged, *_vocabulary_problems(cache)]
    # The content of a damaged file would only repeat the same fault.
    return problems if damaged else [*problems, *_content_problems(cache)]


def _file_problems(store: Store, manifest: Manifest) -> Iterator[str]:
    done, total = 0, sum(map(len, manifest.shards.values()))
    expected = dict.fromkeys(manifest.vocab_arrays(), manifest.vocab_size)
    for split, info in manifest.splits.items():
        expected |= dict.fromkeys(manifest.split_arrays(split, info.rows), info.rows)
    with Progress(total, unit="files") as progress:
        for key, rows in expected.items():
            shards = manifest.shards.get(key, ())
            listed = sum(shard.rows for shard in shards)
            if listed != rows:
                yield f"{store.name(key)} has {listed} rows in its shards; expected {rows}"
            names = [shard_key(key, index) for index in range(len(shards))]
            for name, shard, digest in zip(names, shards, store.digests(names), strict=True):
                if digest is None:
                    yield f"{store.name(name)} is missing"
                elif digest != shard.sha256:
                    yield f"{store.name(name)} has SHA-256 {digest}; expected {shard.sha256}"
                done += 1
                progress.update(done)


def _vocabulary_problems(cache: Cache) -> Iterator[str]:
    parts: list[Callable[[], object]] = [cache.embedding, cache.final_norm, cache.vocab]
    if not cache.manifest.tied:
        parts.append(cache.unembedding)
    for read in parts:  # each compares what it reads with its digest
        try:
            read()
        except UserError as error:
            yield str(error)


def _content_problems(cache: Cache) -> Iterator[str]:
    documents: dict[str, np.ndarray] = {}
    for split, info in cache.manifest.splits.items():
        if info.rows == 0:
            continue
        try:
            yield from _token_problems(cache, split)
            docs = [piece for _, piece in _pieces(cache.column("docs", split))]
            documents[split] = np.unique(np.concatenate(docs))
            cache.column("positions", split).read(0, info.rows)
            for site in cache.manifest.sites:
                yield from _row_problems(cache, split, site)
        except UserError as error:
            yield str(error)
            continue
        if len(documents[split]) != info.documents:
            count = len(documents[split])
            yield f"{cache.url}/{split}/docs has {count} documents; expected {info.documents}"
    none = np.empty(0, np.int32)
    both = np.intersect1d(documents.get("train", none), documents.get("heldout", none))
    if len(both):
        yield f"{cache.url} has document {both[0]} in both splits; expected it in one"


def _token_problems(cache: Cache, split: str) -> Iterator[str]:
    for start, tokens in _pieces(cache.column("tokens", split)):
        wrong = np.flatnonzero((tokens < 0) | (tokens >= cache.manifest.vocab_size))
        if len(wrong):
            row, token = start + int(wrong[0]), tokens[wrong[0]]
            what = f"token {token} in row {row}; expected one of the vocabulary"
            yield f"{cache.url}/{split}/tokens has {what}"
            return


def _row_problems(cache: Cache, split: str, site: Site) -> Iterator[str]:
    acts, stored = cache.acts(site, split), cache.norms(site, split)
    for start, rows in _pieces(acts):
        norms = row_norms(rows)
        if not np.isfinite(norms).all():
            row = start + int(np.flatnonzero(~np.isfinite(norms))[0])
            yield f"{acts.name} is not finite in row {row}"
            return
        kept = stored.read(start, start + len(rows))
        wrong = np.flatnonzero(~np.isclose(norms, kept, rtol=1e-4, atol=0.0))
        if len(wrong):
            row, norm = start + int(wrong[0]), norms[wrong[0]]
            yield f"{stored.name} has {kept[wrong[0]]} in row {row}; expected {norm}"
            return


def _pieces(array: RowArray) -> Iterator[tuple[int, np.ndarray]]:
    """The first row and the rows of each chunk; the next chunk is read meanwhile."""
    rows, step = array.shape[0], array.chunk_rows
    pending = [array.read_async(0, min(step, rows))]
    with Progress(rows, unit=f"rows of {array.name}") as progress:
        for start in range(0, rows, step):
            if start + step < rows:
                pending.append(array.read_async(start + step, min(start + 2 * step, rows)))
            yield start, pending.pop(0).result()
            progress.update(start)
