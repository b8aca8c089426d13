"""The embedding cache: vectors that were computed once, for every run on this machine.

An LMDB file, `embeddings.lmdb`. Vectors lie in blocks, one per `put_many`: a record `k` with the
keys and checksums of its rows, and a record `v` with the rows themselves. Blocks make a warm read
a few gathers over mapped memory instead of one look-up per text, and keep the tree so small that
its pages can be checked before LMDB, which trusts them, walks over them.

Everything that changes a vector (model, revision, pooling, instruction, length limit, precision)
belongs into the namespace or the keys.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from whatchanged.errors import StorageError
from whatchanged.keys import content_key
from whatchanged.store.embedding_index import (
    KEY_BYTES,
    EmbeddingIndex,
    Entries,
    Found,
    Words,
    key_sums,
    key_words,
    row_sums,
)
from whatchanged.store.environments import (
    DamagedFileError,
    Environment,
    open_environment,
    process_lock,
    set_aside,
)
from whatchanged.store.faults import point

_HEADER = struct.Struct("<II")
_BLOCK_ROWS = 8192
_GATHER_ROWS = 256
_MAX_BLOCK = 1 << 30

Result = TypeVar("Result")


def embedding_key(identity: str, text: str) -> str:
    """The key of a text's vector from the embedder of this identity."""
    return content_key("embedding/1", identity, text)


@dataclass(frozen=True, slots=True)
class EmbeddingCheck:
    """What a full check of the cache found; damaged rows are computed again when asked for."""

    n_rows: int
    n_damaged: int
    n_bytes: int


class EmbeddingCache:
    """Vectors by namespace and key. Safe for threads, forks, and several processes at once.

    Every read checks each row; a damaged row is a missing row, counted in `n_damaged`. A file that
    is no sound LMDB file is moved to `quarantine/` with a warning, and the cache starts empty.
    Writes raise StorageError where the disk refuses.
    """

    def __init__(self, root: Path, *, map_bytes: int = 1 << 30) -> None:
        self.path = root / "embeddings.lmdb"
        self.n_damaged = 0
        self._map_bytes = map_bytes

    def get_many(
        self, namespace: str, keys: Sequence[str] | Sequence[bytes], d_embed: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Which keys are known `(n_keys,)`, and rows `(n_keys, d_embed)` in the order asked.

        Rows of unknown keys are zero. Keys may repeat; no keys give `(0,)` and `(0, d_embed)`.
        """
        words = key_words(keys)
        name = _namespace_bytes(namespace, d_embed)

        def read(environment: Environment) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
            with environment.begin() as transaction:
                index = self._index(environment, transaction, name)
                return self._read_rows(transaction, name, index, words, d_embed)

        return self._attempt(read, 0)

    def put_many(
        self, namespace: str, keys: Sequence[str] | Sequence[bytes], rows: NDArray[np.float32]
    ) -> None:
        """Remember rows `(n_keys, d_embed)`; a key that is known and sound keeps its row.

        Raises ValueError for a row that is not finite, and for other shapes.
        """
        words = key_words(keys)
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        if rows.ndim != 2 or len(rows) != len(words):
            raise ValueError(f"{len(words)} keys need as many rows, got shape {rows.shape}")
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            raise ValueError(f"row {int(np.argmin(finite))} of {len(rows)} is not finite")
        name = _namespace_bytes(namespace, rows.shape[1])
        for start in range(0, len(rows), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            self._attempt(self._writer(name, words[part], rows[part]), rows[part].nbytes)

    def check(self) -> EmbeddingCheck:
        """Read every row of every namespace; drop the blocks whose list of keys is damaged."""
        before = self.n_damaged

        def scan(environment: Environment) -> EmbeddingCheck:
            environment.indexes.clear()
            with environment.begin(write=True) as transaction:
                n_lost = _drop_damaged_blocks(transaction)
                n_rows = n_bytes = 0
                for where, record in _records(transaction, b"k", b"k"):
                    name, d_embed = where[1:-8], _HEADER.unpack_from(record)[1]
                    block = _unpacked_keys(where, record)
                    if block is None:
                        continue
                    words, _, places = block
                    index = self._index(environment, transaction, name)
                    found = index.find(words)
                    # Rows that a newer block repeats were damaged, and nobody reads them now.
                    words = words[found.positions[np.isin(found.places, places)]]
                    self._read_rows(transaction, name, index, words, d_embed)
                    n_rows += len(words)
                    n_bytes += len(words) * d_embed * 4
            return EmbeddingCheck(n_rows + n_lost, self.n_damaged - before + n_lost, n_bytes)

        return self._attempt(scan, 0)

    def _index(self, environment: Environment, transaction: Any, name: bytes) -> EmbeddingIndex:
        """The namespace's index, with the blocks that others wrote since it was last used."""
        index = environment.indexes.setdefault(name, EmbeddingIndex())
        parts: list[Entries] = []
        start = b"k" + name + _block_bytes(index.last_block + 1)
        for where, record in _records(transaction, start, b"k" + name):
            index.last_block = int.from_bytes(where[-8:], "big")
            if index.last_block > _MAX_BLOCK:
                raise environment.damaged(f"it holds a block {index.last_block}")
            block = _unpacked_keys(where, record)
            if block is None:
                self.n_damaged += 1
            else:
                words, sums, places = block
                parts.append(Entries(np.ascontiguousarray(words[:, 0]), sums, places))
        index.add(parts)
        return index

    def _writer(
        self, name: bytes, words: Words, rows: NDArray[np.float32]
    ) -> Callable[[Environment], None]:
        def write(environment: Environment) -> None:
            with environment.begin(write=True) as transaction:
                index = self._index(environment, transaction, name)
                known, _ = self._read_rows(transaction, name, index, words, rows.shape[1])
                _, first = np.unique(words, axis=0, return_index=True)
                new = np.sort(first[~known[first]])
                if len(new) == 0:
                    return
                block = _block_bytes(index.last_block + 1)
                where = b"k" + name + block
                transaction.put(where, _packed_keys(where, words[new], rows[new]))
                transaction.put(b"v" + name + block, rows[new].tobytes())
                point("embeddings.before_commit")
            point("embeddings.after_commit")

        return write

    def _read_rows(
        self,
        transaction: Any,
        name: bytes,
        index: EmbeddingIndex,
        words: Words,
        d_embed: int,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        mask = np.zeros(len(words), dtype=np.bool_)
        rows = np.empty((len(words), d_embed), dtype=np.float32)
        found = index.find(words)
        blocks = found.places >> 32
        bounds = [0, *(np.flatnonzero(np.diff(blocks)) + 1), len(blocks)]
        for start, stop in pairwise(bounds):
            if start < stop:
                stored = _stored_rows(transaction, name, int(blocks[start]), d_embed)
                _gather(stored, found.part(start, stop), mask, rows)
        self.n_damaged += len(blocks) - int(np.count_nonzero(mask))
        rows[~mask] = 0
        return mask, rows

    def _attempt(self, work: Callable[[Environment], Result], n_bytes: int) -> Result:
        """The work's result, on a file set aside and started afresh where it proves damaged."""
        with process_lock():
            for _ in range(3):
                try:
                    environment = open_environment(self.path, self._map_bytes)
                    return environment.run(work, n_bytes)
                except DamagedFileError as damage:
                    aside = set_aside(self.path, damage.inode)
                    self.n_damaged += 1
                    warnings.warn(
                        f"the embedding cache {self.path} is damaged ({damage}): moved to"
                        f" {aside or 'quarantine by another process'}; vectors are computed again",
                        stacklevel=4,
                    )
        raise StorageError(f"{self.path} is damaged again and again: check the disk")


def _namespace_bytes(namespace: str, d_embed: int) -> bytes:
    return bytes.fromhex(content_key("embedding-namespace/1", namespace, d_embed))


def _block_bytes(block: int) -> bytes:
    return block.to_bytes(8, "big")


def _packed_keys(where: bytes, words: Words, rows: NDArray[np.float32]) -> bytes:
    sums = key_sums(words) + row_sums(rows)
    body = _HEADER.pack(*rows.shape) + words.tobytes() + sums.tobytes()
    return body + zlib.crc32(where + body).to_bytes(4, "big")


def _unpacked_keys(
    where: bytes, record: memoryview
) -> tuple[Words, Words, NDArray[np.int64]] | None:
    """Key words `(n, 4)`, checksums `(n,)` and places `(n,)` in a `k` record; None if damaged."""
    body, check = bytes(record[:-4]), bytes(record[-4:])
    if zlib.crc32(where + body).to_bytes(4, "big") != check:
        return None
    n_rows, _ = _HEADER.unpack_from(body)
    split = _HEADER.size + KEY_BYTES * n_rows
    words = np.frombuffer(body[_HEADER.size : split], np.uint64).reshape(-1, 4)
    places = np.arange(n_rows) + (int.from_bytes(where[-8:], "big") << 32)
    return words, np.frombuffer(body[split:], np.uint64), places


def _records(transaction: Any, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, memoryview]]:
    cursor = transaction.cursor()
    if cursor.set_range(start):
        for key, record in cursor:
            where = bytes(key)
            if not where.startswith(prefix):
                return
            yield where, record


def _stored_rows(
    transaction: Any, name: bytes, block: int, d_embed: int
) -> NDArray[np.float32] | None:
    record = transaction.get(b"v" + name + _block_bytes(block))
    if record is None or len(record) % (4 * d_embed) != 0:
        return None
    return np.frombuffer(record, np.float32).reshape(-1, d_embed)


def _gather(
    stored: NDArray[np.float32] | None,
    found: Found,
    mask: NDArray[np.bool_],
    rows: NDArray[np.float32],
) -> None:
    """Copy the rows that were found in one block to their positions; mark the sound ones."""
    if stored is None or len(stored) == 0:
        return
    places = found.places & 0xFFFFFFFF
    neighbours = np.diff(places) == 1
    sound = np.empty(len(places), np.bool_)
    buffer = np.empty((min(len(places), _GATHER_ROWS), stored.shape[1]), np.float32)
    # Small steps keep the gathered rows in the processor's cache for the check.
    for start in range(0, len(places), _GATHER_ROWS):
        step = slice(start, min(start + _GATHER_ROWS, len(places)))
        first, last = int(places[start]), int(places[step.stop - 1])
        if last < len(stored) and neighbours[start : step.stop - 1].all():
            gathered = stored[first : last + 1]
        else:
            # A place beyond a block that was cut gives a wrong row, which its checksum refuses.
            gathered = buffer[: step.stop - start]
            np.take(stored, places[step], axis=0, out=gathered, mode="clip")
        sound[step] = row_sums(gathered) == found.sums[step]
        rows[found.positions[step]] = gathered
    mask[found.positions] = sound


def _drop_damaged_blocks(transaction: Any) -> int:
    """How many rows were lost with the blocks that had to be dropped (at least one each)."""
    damaged = [
        (where, max(1, len(record) // (KEY_BYTES + 8)))
        for where, record in _records(transaction, b"k", b"k")
        if _unpacked_keys(where, record) is None
    ]
    for where, _ in damaged:
        transaction.delete(where)
        transaction.delete(b"v" + where[1:])
    return sum(n_rows for _, n_rows in damaged)
