"""The activation store as it is written: columnar, sparse, appended once per batch, resumable.

Batches go into one buffer of fixed size, which becomes a file when it is full. After every chunk
of texts a commit makes everything so far the state of the store; a killed process resumes there.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.events import (
    PRECISIONS,
    Events,
    Extractor,
    Precision,
    encode_values,
)
from whatchanged.activations.groups import ComponentGroups
from whatchanged.activations.poles import TextRows
from whatchanged.activations.summaries import Summaries
from whatchanged.errors import UsageError
from whatchanged.keys import bytes_digest
from whatchanged.store import atomic, codec
from whatchanged.store.activation_files import (
    Keep,
    Manifest,
    Settings,
    components_bytes,
    differing_settings,
    open_segment,
    read_manifest,
    write_components,
)
from whatchanged.store.activation_reader import ActivationStore
from whatchanged.store.segments import Record, SegmentBuffer
from whatchanged.store.text_batch import TextBatch, as_block, cuts, key_bytes, priorities
from whatchanged.store.text_identity import SeenTexts

CHUNK_TEXTS = 8192
SEGMENT_BYTES = 16 * 2**20


class BatchProcessingStorage:
    """Stores batches of component activations. Make one with `create`."""

    def __init__(self, folder: Path, groups: ComponentGroups, manifest: Manifest) -> None:
        self.folder, self.groups = folder, groups
        self._manifest = manifest
        self._settings = manifest.settings
        self._extractor = Extractor()
        self._seen = SeenTexts()
        self._summaries = (
            Summaries(groups, self._settings.k, self._settings.n_sample)
            if self._settings.summarize
            else None
        )
        self._buffer = self._new_buffer()
        self._n_committed = manifest.n_texts
        self._is_whole = True
        self._columns = np.zeros(0, np.int64)
        self._set_columns(self._columns)

    @classmethod
    def create(
        cls,
        folder: Path,
        groups: ComponentGroups,
        *,
        keep: Keep = "all",
        precision: Precision = "float16",
        summarize: bool = True,
        k: int = 20,
        n_sample: int = 50,
        seed: int = 0,
        chunk_texts: int = CHUNK_TEXTS,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> BatchProcessingStorage:
        """A store in `folder`, new, or resumed after its last whole chunk: then `n_texts` says how
        many texts it has, and the next batch must begin with the text after them.

        `keep`: the activations of all texts, of those that the summaries show (sample: the top
        `k` and `n_sample` random texts of every unit, pole and side), or none (summaries). `seed`
        decides what is sampled. Memory is bounded by the buffer, the summaries and 20 bytes per
        text, not by the number of events.

        Raises UsageError for impossible settings, for a finished store, and for one with other
        settings; InputError for one of another version; StorageError where the disk refuses.
        """
        _check_settings(keep, precision, summarize, k, n_sample, chunk_texts, segment_bytes)
        digest = bytes_digest(components_bytes(groups))
        settings = Settings(
            keep, precision, summarize, k, n_sample, seed, chunk_texts, segment_bytes, digest
        )
        atomic.ensure_folder(folder)
        atomic.sweep(folder)
        found = read_manifest(folder)
        if found is None:
            write_components(folder, groups)
            manifest = Manifest(settings)
            manifest.write(folder)
            return cls(folder, groups, manifest)
        _check_resumable(folder, found, settings)
        storage = cls(folder, groups, found)
        storage._restore()
        return storage

    @property
    def n_texts(self) -> int:
        """Texts so far: stored ones, and those that a resumed store must not be given again."""
        return self._manifest.n_texts

    def add_batch(
        self, activations: NDArray[np.float32], columns: NDArray[np.int64], texts: TextBatch
    ) -> None:
        """Take a batch: `activations (n_rows, n_columns)`, the components of whose columns are
        `columns (n_columns,)` (`ComponentGroups.component_numbers`). Components that have no
        column are dead in this batch; a batch without any is silent.

        Raises UsageError, and stores nothing of the batch, for shapes that disagree, activations
        that are no 32-bit or 16-bit floats or not finite, keys that are not 64 hex characters, a
        key met before with other tokens, and a text of more than 65,535 tokens; StorageError where
        the disk refuses: then resume from the last chunk.
        """
        block = as_block(activations, texts, len(columns))
        if not np.array_equal(columns, self._columns):
            self._set_columns(np.asarray(columns, np.int64))
        keys = key_bytes(texts.keys)
        parts = [self._extract(block, texts, keys, low, high) for low, high in cuts(texts.starts)]
        self._seen.add(keys, texts.token_ids, texts.starts.tolist())
        self._begin()
        for record, events in parts:
            if self._summaries is not None:
                self._summaries.update(events, _text_rows(record, self._settings.seed))
            self._buffer.append(record)
            if self._buffer.is_full:
                self._spill()
        self._manifest.n_batches += 1
        self._manifest.n_texts += len(texts.keys)
        self._manifest.n_tokens += len(texts.token_ids)
        if self.n_texts - self._n_committed >= self._settings.chunk_texts:
            self._commit()
        self._is_whole = True

    def finalize(self) -> ActivationStore:
        """Write what is left, close the store for good, and open it for reading."""
        self._begin()
        self._manifest.is_finished = True
        self._commit()
        return ActivationStore(self.folder)

    def _begin(self) -> None:
        """Refuse to go on after an error that left a part of a batch behind, or after the end."""
        if not self._is_whole:
            raise UsageError(
                f"expected a store that can go on at {self.folder}, found a finished or a failed"
                " one: create it again, which resumes after its last whole chunk"
            )
        self._is_whole = False

    def _extract(
        self,
        block: NDArray[np.float32],
        texts: TextBatch,
        keys: NDArray[np.uint8],
        low: int,
        high: int,
    ) -> tuple[Record, Events]:
        starts = texts.starts[low : high + 1] - texts.starts[low]
        rows = slice(int(texts.starts[low]), int(texts.starts[high]))
        events = self._extractor.extract(block[rows], self._column_slots, self.groups.n_components)
        self._refuse_not_finite(events, starts, texts.keys[low:high])
        kept = events if self._settings.keep != "summaries" else events.within(0, 0)
        codes, scales = encode_values(kept, self._settings.precision)
        record = Record(
            self._manifest.n_batches, self._alive, np.arange(low, high) + self.n_texts,
            keys[low:high], texts.is_intervention[low:high], np.diff(starts),
            texts.token_ids[rows], kept.slots, kept.counts, kept.rows, codes, scales,
        )  # fmt: skip
        return record, events

    def _refuse_not_finite(
        self, events: Events, starts: NDArray[np.int64], keys: tuple[str, ...]
    ) -> None:
        values = events.values
        # Both carry a NaN through, and infinity is one of them.
        if not len(values) or np.isfinite([values.min(), values.max()]).all():
            return
        event = int(np.flatnonzero(~np.isfinite(values))[0])
        column = int(np.searchsorted(np.cumsum(events.counts), event, side="right"))
        label = self.groups.labels[self.groups.component_of_slot[events.slots[column]]]
        text = int(np.searchsorted(starts, events.rows[event], side="right")) - 1
        raise UsageError(
            f"expected finite activations, found {values[event]} of {label} on token"
            f" {events.rows[event] - starts[text]} of the text {keys[text]}: run the model in a"
            " wider precision, or leave the text out"
        )

    def _set_columns(self, columns: NDArray[np.int64]) -> None:
        n = self.groups.n_components
        if len(columns) and not 0 <= columns.min() <= columns.max() < n:
            raise UsageError(
                f"expected columns of components 0 to {n - 1:,}, found"
                f" {columns.min()} to {columns.max()}: number them by component_numbers"
            )
        alive = np.zeros(n, bool)
        alive[columns] = True
        if np.count_nonzero(alive) < len(columns):
            raise UsageError(
                f"expected one column per component, found {len(columns):,} columns of"
                f" {np.count_nonzero(alive):,} components: drop the repeated ones"
            )
        self._columns = columns.copy()
        self._alive = np.packbits(alive)
        self._column_slots = self.groups.slot_of_component[columns]

    def _new_buffer(self) -> SegmentBuffer:
        settings = self._settings
        return SegmentBuffer(self.groups.n_components, settings.precision, settings.segment_bytes)

    def _spill(self) -> None:
        """Publish the buffer as a segment."""
        if not self._buffer.n_texts:
            return
        numbers = self._buffer.columns["numbers"].filled()
        first, last = int(numbers[0]), int(numbers[-1])
        file = self._manifest.add_file(self.folder, "events", self._buffer.arrays())
        file.first, file.last = first, last
        self._manifest.segments.append(file)
        self._buffer.clear()

    def _commit(self) -> None:
        """Make everything so far the state of the store."""
        manifest = self._manifest
        self._spill()
        if self._summaries is not None:
            if self._settings.keep != "all":
                self._drop_unused(self._summaries.example_texts())
            arrays = self._summaries.arrays()
            manifest.summaries = [manifest.add_file(self.folder, "summaries", arrays)]
        new = self._seen.take_new()
        if manifest.is_finished:
            manifest.texts = []
        elif len(new["high"]):
            manifest.texts.append(manifest.add_file(self.folder, "texts", new))
        manifest.write(self.folder)
        self._n_committed = manifest.n_texts

    def _drop_unused(self, wanted: NDArray[np.int64]) -> None:
        """Write the segments again with the wanted texts only, once at least half can go."""
        manifest = self._manifest
        segments = [open_segment(self.folder, file) for file in manifest.segments]
        n_stored = sum(segment.n_texts for segment in segments)
        slack = len(wanted) + self._settings.chunk_texts
        if n_stored <= (len(wanted) if manifest.is_finished else slack):
            return
        manifest.segments = []
        for segment in segments:
            for record in segment.all_records():
                is_wanted = np.isin(record.numbers, wanted)
                if is_wanted.any():
                    self._buffer.append(record.only(is_wanted))
                if self._buffer.is_full:
                    self._spill()
        self._spill()

    def _restore(self) -> None:
        manifest = self._manifest
        for file in manifest.texts:
            data = (self.folder / file.name).read_bytes()
            self._seen.restore(codec.arrays_value(data))
        if manifest.summaries:
            data = (self.folder / manifest.summaries[0].name).read_bytes()
            self._summaries = Summaries.from_arrays(self.groups, codec.arrays_value(data))
        for file in manifest.segments:
            open_segment(self.folder, file)


def _check_settings(
    keep: str,
    precision: str,
    summarize: bool,
    k: int,
    n_sample: int,
    chunk_texts: int,
    n_bytes: int,
) -> None:
    if keep not in get_args(Keep):
        raise UsageError(f"expected keep to be all, sample or summaries, found {keep!r}")
    if precision not in PRECISIONS:
        raise UsageError(f"expected float32, float16 or int8, found {precision!r}")
    if keep != "all" and not summarize:
        raise UsageError(f"keep={keep} keeps what the summaries show: leave summarize on")
    if min(k, n_sample, chunk_texts, n_bytes) < 1:
        raise UsageError("expected k, n_sample, chunk_texts and segment_bytes of at least 1")


def _check_resumable(folder: Path, found: Manifest, settings: Settings) -> None:
    if found.is_finished:
        raise UsageError(
            f"expected a new or an unfinished store at {folder}, found a finished one: read it"
            " with ActivationStore, or choose another folder"
        )
    if odd := differing_settings(found.settings, settings):
        raise UsageError(
            f"the store {folder} was begun with another {' and another '.join(odd)}: continue it"
            " with the same, or choose another folder"
        )


def _text_rows(record: Record, seed: int) -> TextRows:
    sides, numbers = record.is_intervention.astype(bool), record.numbers.astype(np.int64)
    return TextRows(numbers, sides, priorities(record.keys, seed), record.starts, record.token_ids)
