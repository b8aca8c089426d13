"""What is wrong with the pages of an LMDB file, found before LMDB walks over them.

LMDB has no checksums: a damaged page can send it outside the mapped file and end the process. This
check follows the layout of LMDB 0.9 (data version 1, 64-bit little-endian: `struct MDB_meta`,
`MDB_db`, `MDB_page` and `MDB_node` in its mdb.c). It covers the header, both trees (live records
and free pages), and that no page is used twice. Other builds of LMDB are not checked.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lmdb

_MAGIC = 0xBEEFC0DE
_PAGE = struct.Struct("<QHHHH")
_N_PAGES = struct.Struct("<I")
_META = struct.Struct("<IIQQ")
_TREE = struct.Struct("<IHHQQQQQ")
_TAIL = struct.Struct("<QQ")
_NODE = struct.Struct("<HHHH")
_NUMBER = struct.Struct("<Q")
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_BIG_DATA = 1
_INTEGER_KEYS = 8
_FILE_NOT_FOLDER = 0x4000
_NO_PAGE = 2**64 - 1
_MAX_DEPTH = 32
_MAX_MAP_BYTES = 1 << 47
_META_BYTES = _PAGE.size + _META.size + 2 * _TREE.size + _TAIL.size


class _Damage(Exception):
    """Says which page is wrong, and how."""


class _Tree(NamedTuple):
    page_size: int
    flags: int
    depth: int
    n_branch: int
    n_leaf: int
    n_overflow: int
    n_entries: int
    root: int


class _Meta(NamedTuple):
    free: _Tree
    main: _Tree
    last_page: int
    transaction: int


def find_damage_in_header(file: BinaryIO) -> str | None:
    """What is wrong with the first two pages of an open file; None where nothing is.

    An empty file is sound: LMDB writes its header when it opens it.
    """
    if not _is_known_layout():
        return None
    start = file.read(mmap.PAGESIZE + _META_BYTES)
    if not start:
        return None
    try:
        _metas(start, os.fstat(file.fileno()).st_size)
    except _Damage as damage:
        return str(damage)
    return None


def find_damage(path: Path, transaction: int) -> str | None:
    """What is wrong with the pages that a transaction of this number sees; None where nothing is.

    The caller holds that transaction open, which keeps its pages from being used again.
    """
    if not _is_known_layout():
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            meta = next(
                (meta for meta in _metas(data, len(data)) if meta.transaction == transaction), None
            )
            if meta is None:
                # Two commits since the transaction began: its header is overwritten. Whoever
                # committed has checked the same pages.
                return None
            _check_trees(data, meta)
        except _Damage as damage:
            return str(damage)
    return None


def _is_known_layout() -> bool:
    return lmdb.version()[:2] == (0, 9) and sys.byteorder == "little" and sys.maxsize > 2**32


def _metas(data: bytes | mmap.mmap, n_bytes: int) -> list[_Meta]:
    if len(data) < mmap.PAGESIZE + _META_BYTES:
        raise _Damage(f"its header is cut off after {len(data):,} bytes")
    metas = [_meta(data, page, n_bytes) for page in (0, 1)]
    newest = max(metas, key=lambda meta: meta.transaction)
    if (newest.last_page + 1) * mmap.PAGESIZE > n_bytes:
        raise _Damage(f"it has {n_bytes:,} bytes where its header names more pages")
    return metas


def _meta(data: bytes | mmap.mmap, page: int, n_bytes: int) -> _Meta:
    at = page * mmap.PAGESIZE
    number, _, flags, _, _ = _PAGE.unpack_from(data, at)
    at += _PAGE.size
    magic, version, _, map_bytes = _META.unpack_from(data, at)
    at += _META.size
    free = _Tree(*_tree_fields(data, at))
    main = _Tree(*_tree_fields(data, at + _TREE.size))
    last_page, transaction = _TAIL.unpack_from(data, at + 2 * _TREE.size)
    if (number, flags, magic, version) != (page, _META_PAGE, _MAGIC, 1):
        raise _Damage(f"page {page} is no LMDB header")
    plausible = (
        free.page_size == mmap.PAGESIZE
        and free.flags & ~_FILE_NOT_FOLDER == _INTEGER_KEYS
        and main.flags == 0
        and map_bytes < _MAX_MAP_BYTES
        and last_page < _MAX_MAP_BYTES // mmap.PAGESIZE
    )
    if not plausible:
        raise _Damage(f"header page {page} states impossible sizes")
    return _Meta(free, main, last_page, transaction)


def _tree_fields(data: bytes | mmap.mmap, at: int) -> tuple[int, ...]:
    return tuple(_TREE.unpack_from(data, at))


class _Span(NamedTuple):
    """The keys from `low` up to and without `high`; None stands for no limit."""

    low: bytes | None
    high: bytes | None

    def holds(self, place: bytes) -> bool:
        return (self.low is None or self.low <= place) and (self.high is None or place < self.high)


@dataclass
class _Walk:
    """One tree, counted while it is walked. `used` marks the pages of all trees."""

    data: mmap.mmap
    used: bytearray
    by_number: bool
    n_branch: int = 0
    n_leaf: int = 0
    n_overflow: int = 0
    n_entries: int = 0
    depths: set[int] = field(default_factory=set)

    def claim(self, page: int, n_pages: int = 1) -> None:
        """Mark pages as used. Raises _Damage for pages outside the file or used already."""
        if page < 2 or n_pages < 1 or page + n_pages > len(self.used):
            raise _Damage(f"page {page} lies outside the file")
        if any(self.used[page : page + n_pages]):
            raise _Damage(f"page {page} is used twice")
        self.used[page : page + n_pages] = b"\1" * n_pages

    def leaves(self, page: int, depth: int, span: _Span) -> Iterator[tuple[bytes, bytes | None]]:
        """Key and (unless it lies on pages of its own) data of every leaf below a page.

        Raises _Damage for a key outside the span in which a search would look for it.
        """
        if depth > _MAX_DEPTH:
            raise _Damage("a tree is too deep")
        self.claim(page)
        flags, nodes = _nodes(self.data, page)
        if flags == _BRANCH:
            self.n_branch += 1
            # The first key of a branch page stands for everything below the second.
            borders = [span.low, *(self.place(self.key(at)) for at in nodes[1:]), span.high]
            for at, low, high in zip(nodes, borders, borders[1:], strict=False):
                lower, upper, top, _ = _NODE.unpack_from(self.data, at)
                yield from self.leaves(lower | upper << 16 | top << 32, depth + 1, _Span(low, high))
            return
        self.n_leaf += 1
        self.depths.add(depth)
        for at in nodes:
            self.n_entries += 1
            if not span.holds(self.place(self.key(at))):
                raise _Damage(f"page {page} holds a key that belongs elsewhere")
            yield self.leaf(page, at)

    def key(self, at: int) -> bytes:
        """The key of the node at this place."""
        start = at + _NODE.size
        return self.data[start : start + _NODE.unpack_from(self.data, at)[3]]

    def place(self, key: bytes) -> bytes:
        """What the tree sorts by: numbers are little-endian, turned around they sort as bytes."""
        return key[::-1] if self.by_number else key

    def leaf(self, page: int, at: int) -> tuple[bytes, bytes | None]:
        """One record; its overflow pages are claimed."""
        low, high, flags, n_key = _NODE.unpack_from(self.data, at)
        n_bytes = low | high << 16
        key_end = at + _NODE.size + n_key
        key = self.data[at + _NODE.size : key_end]
        big = flags == _BIG_DATA
        end = key_end + (_NUMBER.size if big else n_bytes)
        if flags not in (0, _BIG_DATA) or end > (page + 1) * mmap.PAGESIZE:
            raise _Damage(f"a record on page {page} is malformed")
        if not big:
            return key, self.data[key_end:end]
        return key, self.overflow(_NUMBER.unpack_from(self.data, key_end)[0], n_bytes)

    def overflow(self, page: int, n_bytes: int) -> bytes:
        """The start of a record on pages of its own, which are claimed."""
        n_pages = (_PAGE.size + n_bytes - 1) // mmap.PAGESIZE + 1
        self.claim(page, n_pages)
        at = page * mmap.PAGESIZE
        number, _, flags, _, _ = _PAGE.unpack_from(self.data, at)
        if (
            number != page
            or flags != _OVERFLOW
            or _N_PAGES.unpack_from(self.data, at + 12) != (n_pages,)
        ):
            raise _Damage(f"page {page} is no overflow page of {n_pages}")
        self.n_overflow += n_pages
        return self.data[at + _PAGE.size : at + _PAGE.size + n_bytes]


def _nodes(data: mmap.mmap, page: int) -> tuple[int, list[int]]:
    """A tree page's kind, and where in the file its nodes begin."""
    start = page * mmap.PAGESIZE
    number, _, flags, lower, upper = _PAGE.unpack_from(data, start)
    n_nodes, odd = divmod(lower - _PAGE.size, 2)
    sound = (
        number == page
        and flags in (_BRANCH, _LEAF)
        and not odd
        and n_nodes > 0
        and lower <= upper <= mmap.PAGESIZE
        and (flags == _LEAF or n_nodes > 1)
    )
    if not sound:
        raise _Damage(f"page {page} is no tree page")
    offsets = struct.unpack_from(f"<{n_nodes}H", data, start + _PAGE.size)
    for offset in offsets:
        if not upper <= offset <= mmap.PAGESIZE - _NODE.size or offset % 2:
            raise _Damage(f"page {page} points outside itself")
        n_key = _NODE.unpack_from(data, start + offset)[3]
        if offset + _NODE.size + n_key > mmap.PAGESIZE:
            raise _Damage(f"a key on page {page} is too long")
    return flags, [start + offset for offset in offsets]


def _check_trees(data: mmap.mmap, meta: _Meta) -> None:
    used = bytearray(meta.last_page + 1)
    _check_tree(data, used, meta.main, "records")
    for pages in _check_tree(data, used, meta.free, "free pages"):
        _check_free_list(pages, used)


def _check_tree(data: mmap.mmap, used: bytearray, tree: _Tree, what: str) -> list[bytes]:
    """The records of the free tree, which need a look of their own (of the other tree: none)."""
    by_number = bool(tree.flags & _INTEGER_KEYS)
    walk = _Walk(data, used, by_number)
    found: list[bytes] = []
    last: bytes | None = None
    if tree.root != _NO_PAGE:
        for key, record in walk.leaves(tree.root, 1, _Span(None, None)):
            place = walk.place(key)
            if (by_number and len(key) != _NUMBER.size) or (last is not None and place <= last):
                raise _Damage(f"the tree of {what} is out of order")
            last = place
            if by_number:
                found.append(record or b"")
    counted = (walk.n_branch, walk.n_leaf, walk.n_overflow, walk.n_entries)
    if counted != (tree.n_branch, tree.n_leaf, tree.n_overflow, tree.n_entries):
        raise _Damage(f"the tree of {what} lacks pages or records")
    if walk.depths != ({tree.depth} if tree.depth else set()):
        raise _Damage(f"the tree of {what} is uneven")
    return found


def _check_free_list(record: bytes, used: bytearray) -> None:
    n_words = len(record) // 8
    numbers = struct.unpack(f"<{n_words}Q", record[: 8 * n_words])
    if not numbers or numbers[0] >= n_words:
        raise _Damage("a list of free pages is cut off")
    for page in numbers[1 : numbers[0] + 1]:
        if not 2 <= page < len(used) or used[page]:
            raise _Damage(f"page {page} is both free and used")
        used[page] = 1
