"""The activation store as it is read: examples, texts, rows, and the peaks of every text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from whatchanged.activations.events import Events, cluster_block
from whatchanged.activations.groups import ComponentGroups
from whatchanged.activations.poles import PoleName
from whatchanged.activations.summaries import Summaries
from whatchanged.errors import InputError, UsageError
from whatchanged.store import codec
from whatchanged.store.activation_files import (
    check_files,
    open_segment,
    read_components,
    read_manifest,
)
from whatchanged.store.segments import Record, Segment

Listed: TypeAlias = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False, slots=True)
class Example:
    """A text on which a unit fires: `value` is its peak at the pole asked for, with its sign,
    exact, at the token `position`.

    `activations (n_tokens,)` of the unit and `members`: component label -> `(n_tokens,)` of the
    components with an activation there, are as stored; both are empty where the store keeps none.
    """

    number: int
    text_key: str
    is_intervention: bool
    value: float
    position: int
    token_ids: NDArray[np.integer[Any]]
    activations: NDArray[np.float32]
    members: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """A unit's activations `(n_tokens,)` on one text of a batch, zeros included."""

    number: int
    text_key: str
    token_ids: NDArray[np.integer[Any]]
    activations: NDArray[np.float32]


@dataclass(frozen=True, eq=False, slots=True)
class _Located:
    """A text's segment, its place there, its record, and its place within the record."""

    segment: Segment
    place: int
    record: int
    within: int


class ActivationStore:
    """A finished store. Units are component labels and cluster ids.

    Files are mapped; a query reads the parts that it needs. Raises InputError for a folder without
    a finished store, a damaged one, and one of another version.
    """

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder)
        if manifest is None or not manifest.is_finished:
            what = "no store" if manifest is None else f"one with {manifest.n_texts:,} texts so far"
            raise InputError(
                f"expected a finished activation store at {folder}, found {what}: run the"
                " collection to its end; finished chunks are not repeated"
            )
        self.folder, self._manifest = folder, manifest
        self.groups: ComponentGroups = read_components(folder, manifest)
        self._segments = [open_segment(folder, file) for file in manifest.segments]
        self._cluster_ids = frozenset(self.groups.clusters)
        self._firsts = np.array([file.first for file in manifest.segments], np.int64)

    @property
    def n_texts(self) -> int:
        """Texts that were added, whether their activations are kept or not."""
        return self._manifest.n_texts

    @property
    def n_stored(self) -> int:
        """Texts that are in the store."""
        return sum(segment.n_texts for segment in self._segments)

    @property
    def n_bytes(self) -> int:
        """Bytes of the segments and of the summaries."""
        return sum(f.n_bytes for f in (*self._manifest.segments, *self._manifest.summaries))

    @property
    def n_events(self) -> int:
        """Non-zero component activations in the store."""
        return sum(int(segment.records[:, 3].sum()) for segment in self._segments)

    @cached_property
    def summaries(self) -> Summaries:
        """Raises UsageError where the store was made without."""
        if not self._manifest.summaries:
            raise UsageError(f"the store {self.folder} was made with summarize off: collect again")
        data = (self.folder / self._manifest.summaries[0].name).read_bytes()
        return Summaries.from_arrays(self.groups, codec.arrays_value(data))

    def check(self) -> list[str]:
        """One sentence per missing or damaged file. Reads everything."""
        return check_files(self.folder, self._manifest)

    def top(
        self, unit: str, k: int = 20, side: int | None = None, pole: PoleName = "positive"
    ) -> list[Example]:
        """Up to `k` texts with the strongest peaks of a unit, on one side (0 base, 1 intervention)
        or on both, strongest first, ties to the earlier text."""
        found = self._listed("top", unit, side, pole)
        return self._examples(unit, found, np.lexsort((found["texts"], -found["keys"]))[:k])

    def sample(
        self, unit: str, k: int = 20, side: int | None = None, pole: PoleName = "positive"
    ) -> list[Example]:
        """Up to `k` random texts on which a unit fires, in random order."""
        found = self._listed("sample", unit, side, pole)
        return self._examples(unit, found, np.argsort(-found["keys"], kind="stable")[:k])

    def quantiles(
        self, unit: str, k: int = 5, side: int | None = None, pole: PoleName = "positive"
    ) -> list[Example]:
        """Up to `k` texts evenly spaced in the order of the unit's peaks, from weak to strong, of
        the random texts on which it fires."""
        found = self._listed("sample", unit, side, pole)
        order = np.argsort(np.abs(found["values"]), kind="stable")
        places = np.round(np.linspace(0, len(order) - 1, min(k, len(order)))).astype(np.int64)
        return self._examples(unit, found, order[places])

    def unit_number(self, unit: str) -> int:
        """The place of a component or a component cluster in the summaries.

        Raises UsageError for a label that the store does not have."""
        if unit in self._cluster_ids:
            return self.groups.n_components + self.groups.cluster_number(unit)
        return int(self.groups.component_numbers([unit])[0])

    def cluster_rows(self, cluster: str) -> Iterator[Row]:
        """The rows of a cluster: of every batch in which it is active, all texts in order."""
        number = self.groups.cluster_number(cluster)
        for records in self._batches():
            blocks = [self._cluster_row(record.events(), number) for record in records]
            if any(block.any() for block in blocks):
                for record, block in zip(records, blocks, strict=True):
                    yield from _rows(record, block)

    def component_rows(self, label: str) -> Iterator[Row]:
        """The rows of a component: of every batch in which it is alive and its cluster, if it has
        one, is active, all texts in order."""
        number = int(self.groups.component_numbers([label])[0])
        slot, cluster = int(self.groups.slot_of_component[number]), self.groups.cluster_of[number]
        for records in self._batches():
            events = [record.events() for record in records]
            is_active = cluster < 0 or any(
                self._cluster_row(part, int(cluster)).any() for part in events
            )
            if is_active and np.unpackbits(records[0].alive)[number]:
                for record, part in zip(records, events, strict=True):
                    row = _dense(part.within(slot, slot + 1)).sum(axis=0)
                    yield from _rows(record, row)

    def peaks(self, *, clusters: bool = False) -> tuple[list[str], NDArray[np.float32]]:
        """Keys of the stored texts, and the largest activation of every component (or cluster) on
        each `(n_stored, n_units)`; 0 where none is positive."""
        groups = self.groups
        n_units = groups.n_clusters if clusters else groups.n_components
        peaks = np.zeros((self.n_stored, n_units), np.float32)
        keys: list[str] = []
        for record in self._records():
            events = record.events()
            text = np.repeat(np.arange(len(record.numbers)), record.n_tokens) + len(keys)
            if clusters:
                units, block = cluster_block(events, groups)
                at = np.flatnonzero(block)
                unit, row = units[at // events.n_rows], at % events.n_rows
                values = block.reshape(-1)[at]
            else:
                unit = groups.component_of_slot[np.repeat(events.slots, events.counts)]
                row, values = events.rows.astype(np.int64), events.values
            np.maximum.at(peaks, (text[row], unit), values)
            keys += [key.tobytes().hex() for key in record.keys]
        return keys, peaks

    def _records(self) -> Iterator[Record]:
        return (record for segment in self._segments for record in segment.all_records())

    def _batches(self) -> Iterator[list[Record]]:
        # A batch of more rows than a record holds has several.
        return (list(part) for _, part in groupby(self._records(), lambda record: record.batch))

    def _cluster_row(self, events: Events, cluster: int) -> NDArray[np.float32]:
        """A cluster's activations `(n_rows,)`."""
        first, end = self.groups.first_slots[cluster : cluster + 2].tolist()
        _, block = cluster_block(events.within(first, end), self.groups)
        return block[0] if len(block) else np.zeros(events.n_rows, np.float32)

    def _listed(self, table: str, unit: str, side: int | None, pole: PoleName) -> Listed:
        """The columns of an example table for a unit."""
        own, number = self.summaries.poles[pole], self.unit_number(unit)
        sides = (0, 1) if side is None else (side,)
        parts = [own.examples(table, number, which) for which in sides]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _slots(self, unit: str) -> tuple[int, int]:
        number = self.unit_number(unit) - self.groups.n_components
        if number >= 0:
            first, end = self.groups.first_slots[number : number + 2].tolist()
            return first, end
        slot = int(self.groups.slot_of_component[number])
        return slot, slot + 1

    def _examples(self, unit: str, listed: Listed, chosen: NDArray[np.int64]) -> list[Example]:
        first, end = self._slots(unit)
        texts = [self._locate(number) for number in listed["texts"][chosen].tolist()]
        for text in texts:
            text.segment.expect_text(text.record, text.place)
        spans = [text.segment.span(text.record, first, end) for text in texts]
        rows = [text.segment.text_rows(text.record, text.within) for text in texts]
        joined = _join(
            [
                (text.segment.span_events(text.record, span), low, high)
                for text, span, (low, high) in zip(texts, spans, rows, strict=True)
            ]
        )
        members, whole = _dense(joined), self._unit_row(unit, joined)
        labels = [self.groups.labels[c] for c in self.groups.component_of_slot[joined.slots]]
        found, start = [], 0
        for row, text, (low, high) in zip(chosen.tolist(), texts, rows, strict=True):
            part = slice(start, start + high - low)
            start = part.stop
            shown = members[:, part]
            columns = text.segment.columns
            found.append(
                Example(
                    int(listed["texts"][row]),
                    columns["keys"][text.place].tobytes().hex(),
                    bool(columns["is_intervention"][text.place]),
                    float(listed["values"][row]),
                    int(listed["positions"][row]),
                    text.segment.token_ids(text.record, low, high),
                    whole[part],
                    {labels[i]: shown[i] for i in np.flatnonzero(shown.any(axis=1)).tolist()},
                )
            )
        return found

    def _unit_row(self, unit: str, events: Events) -> NDArray[np.float32]:
        """A unit's activations `(n_rows,)` from its components' events, of which there are none
        where the store keeps none: then `(0,)`."""
        if not len(events.slots):
            return np.zeros(0, np.float32)
        if unit in self._cluster_ids:
            _, block = cluster_block(events, self.groups)
        else:
            block = _dense(events)
        row: NDArray[np.float32] = block[0]
        return row

    def _locate(self, number: int) -> _Located:
        segment = self._segments[int(np.searchsorted(self._firsts, number, side="right")) - 1]
        place = segment.place_of(number)
        if place is None:
            raise InputError(f"the store {self.folder} lacks text {number:,}: collect again")
        return _Located(segment, place, *segment.record_of(place))


def _join(parts: list[tuple[Events, int, int]]) -> Events:
    """The events of the rows from `low` up to `high` of each record, as if of one record."""
    slots, rows, values, n_rows = [], [], [], 0
    for events, low, high in parts:
        kept = (events.rows >= low) & (events.rows < high)
        slots.append(np.repeat(events.slots, events.counts)[kept])
        rows.append(events.rows[kept] + np.int64(n_rows - low))
        values.append(events.values[kept])
        n_rows += high - low
    none = np.zeros(0, np.int64)
    of_event = np.concatenate([none, *slots])
    order = np.argsort(of_event, kind="stable")
    found, counts = np.unique(of_event, return_counts=True)
    joined_rows = np.concatenate([none, *rows])[order]
    joined = np.concatenate([np.zeros(0, np.float32), *values])[order]
    return Events(n_rows, found, counts, joined_rows, joined)


def _dense(events: Events) -> NDArray[np.float32]:
    """`(n_columns, n_rows)`"""
    dense = np.zeros((len(events.slots), events.n_rows), np.float32)
    dense[np.repeat(np.arange(len(events.slots)), events.counts), events.rows] = events.values
    return dense


def _rows(record: Record, activations: NDArray[np.float32]) -> Iterable[Row]:
    starts = record.starts.tolist()
    for text, (low, high) in enumerate(pairwise(starts)):
        yield Row(
            int(record.numbers[text]),
            record.keys[text].tobytes().hex(),
            record.token_ids[low:high],
            activations[low:high],
        )
