"""Writes a bbolt database file: the format of etcd's own snapshots (v3 API, snapshot file compatibility).

Each page is written once, front to back, from sorted pairs: the leaf pages of a bucket, then the branch pages
above them; then the next bucket; after all buckets the tree that names them. The two meta pages and the page
of the free list come last, at the start of the file, where room was left for them. No page of the file is
free. etcd's tools read it, and an etcd can be restored from it.

The layout of pages is in `boltpages`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Final

from netstore.etcdfile.boltpages import (
    BRANCH,
    BRANCH_ELEMENT,
    BUCKET,
    CHECKSUM,
    FREE,
    HEAD,
    IS_BUCKET,
    LEAF,
    LEAF_ELEMENT,
    MAGIC,
    META,
    META_FIELDS,
    VERSION,
    fnv1a,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PAGE_BYTES: Final = 4096

_FREELIST_PAGE: Final = 2
_FIRST_PAGE: Final = 3
_TRANSACTION: Final = 2

_MOST_ELEMENTS: Final = 0xFFFF


def write(file: BinaryIO, buckets: Mapping[bytes, Iterable[tuple[bytes, bytes]]]) -> int:
    """Write a database with these buckets to an empty file; its size in bytes, a multiple of the page's.

    The pairs of each bucket must be sorted by key, without duplicates. Memory: one page, and the first key
    and the number of each page of the bucket that is being written.
    """
    writer = _Writer(file)
    file.write(bytes(_FIRST_PAGE * PAGE_BYTES))
    roots = [(name, BUCKET.pack(writer.tree(buckets[name], 0), 0)) for name in sorted(buckets)]
    root = writer.tree(roots, IS_BUCKET)
    file.seek(0)
    file.write(_meta(0, root, writer.next_page) + _meta(1, root, writer.next_page))
    file.write(HEAD.pack(_FREELIST_PAGE, FREE, 0, 0))
    return writer.next_page * PAGE_BYTES


def _meta(number: int, root: int, pages: int) -> bytes:
    # bbolt uses the meta with the higher transaction number, or the other one if its checksum is wrong.
    transaction = _TRANSACTION - 1 + number
    fields = META_FIELDS.pack(MAGIC, VERSION, PAGE_BYTES, 0, root, 0, _FREELIST_PAGE, pages, transaction)
    page = HEAD.pack(number, META, 0, 0) + fields + CHECKSUM.pack(fnv1a(fields))
    return page.ljust(PAGE_BYTES, b"\0")


class _Writer:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.next_page = _FIRST_PAGE

    def tree(self, pairs: Iterable[tuple[bytes, bytes]], flags: int) -> int:
        """Write a B+tree; the number of its root page."""
        level = self._leaves(pairs, flags)
        while len(level) > 1:
            level = self._branches(level)
        return level[0][1]

    def _leaves(self, pairs: Iterable[tuple[bytes, bytes]], flags: int) -> list[tuple[bytes, int]]:
        level: list[tuple[bytes, int]] = []
        batch: list[tuple[bytes, bytes]] = []
        size = HEAD.size
        for key, value in pairs:
            more = LEAF_ELEMENT.size + len(key) + len(value)
            if batch and (size + more > PAGE_BYTES or len(batch) == _MOST_ELEMENTS):
                level.append((batch[0][0], self._leaf(batch, flags)))
                batch, size = [], HEAD.size
            batch.append((key, value))
            size += more
        if batch or not level:
            level.append((batch[0][0] if batch else b"", self._leaf(batch, flags)))
        return level

    def _leaf(self, pairs: list[tuple[bytes, bytes]], flags: int) -> int:
        at = len(pairs) * LEAF_ELEMENT.size
        elements: list[bytes] = []
        for key, value in pairs:
            elements.append(LEAF_ELEMENT.pack(flags, at, len(key), len(value)))
            at += len(key) + len(value) - LEAF_ELEMENT.size
        return self._page(LEAF, elements, [part for pair in pairs for part in pair])

    def _branches(self, level: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        above: list[tuple[bytes, int]] = []
        batch: list[tuple[bytes, int]] = []
        size = HEAD.size
        for key, page in level:
            more = BRANCH_ELEMENT.size + len(key)
            # At least two to a page, so that each level is smaller than the one below.
            if len(batch) >= 2 and (size + more > PAGE_BYTES or len(batch) == _MOST_ELEMENTS):
                above.append((batch[0][0], self._branch(batch)))
                batch, size = [], HEAD.size
            batch.append((key, page))
            size += more
        above.append((batch[0][0], self._branch(batch)))
        return above

    def _branch(self, children: list[tuple[bytes, int]]) -> int:
        at = len(children) * BRANCH_ELEMENT.size
        elements: list[bytes] = []
        for key, page in children:
            elements.append(BRANCH_ELEMENT.pack(at, len(key), page))
            at += len(key) - BRANCH_ELEMENT.size
        return self._page(BRANCH, elements, [key for key, _ in children])

    def _page(self, kind: int, elements: list[bytes], data: list[bytes]) -> int:
        body = b"".join((*elements, *data))
        pages = max(1, -(-(HEAD.size + len(body)) // PAGE_BYTES))
        number = self.next_page
        self.next_page += pages
        head = HEAD.pack(number, kind, len(elements), pages - 1)
        self._file.write((head + body).ljust(pages * PAGE_BYTES, b"\0"))
        return number
