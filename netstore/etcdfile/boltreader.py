"""Reads a bbolt database file: an etcd snapshot, or the file `db` of its data folder (v3 API, snapshot file
compatibility). The layout of pages is in `boltpages`.

The file may come from anywhere, so nothing in it is trusted: what contradicts itself raises CorruptData with
the file and the offset. A damaged file can neither make the reader go round in circles, nor read or copy more
in one pass over a bucket than the file has: a tree has no more pages than the file, with their overflow, keys
ascend, elements do not overlap, trees end at `MAX_DEPTH`, and a page below the root has an element. Memory is
that of a leaf page of `MAX_PAGE_BYTES` and of a value in it, of a branch page of `MAX_BRANCH_BYTES` for each
level, and of the names of `MAX_BUCKETS` buckets.
"""

from __future__ import annotations

from hashlib import sha256
from io import SEEK_END
from struct import Struct
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple

from netstore.errors import CorruptData
from netstore.etcdfile.boltpages import (
    BRANCH,
    BRANCH_ELEMENT,
    BUCKET,
    CHECKSUM,
    HEAD,
    IS_BUCKET,
    LEAF,
    LEAF_ELEMENT,
    MAGIC,
    META_FIELDS,
    VERSION,
    fnv1a,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Pair = tuple[bytes, bytes]

MAX_PAGE_BYTES: Final = 256 * 1024 * 1024
"""Largest page with its overflow. A value is in one page; an etcd takes requests of 1.5 MiB by default."""

MAX_BRANCH_BYTES: Final = 1024 * 1024
"""Largest branch page. It has more than the page size only where two keys do not fit into one."""

MAX_DEPTH: Final = 32
"""Levels of a tree. One with the fewest children that bbolt allows has more keys than disks can hold."""

MAX_BUCKETS: Final = 100
"""Buckets in a database. An etcd has about ten."""

MAX_NAME_BYTES: Final = 32 * 1024
"""Longest name of a bucket: the longest key that bbolt takes."""

DIGEST_BYTES: Final = 32
"""Bytes of the SHA-256 that `etcdctl snapshot save` writes after the database."""

_SECTOR: Final = 512
"""A database has a multiple of this size, so that a digest behind it can be told."""

_PAGE_SIZES: Final = tuple(512 << power for power in range(8))
_READ_BYTES: Final = 1024 * 1024
_MAGIC_FIELD: Final = Struct("<I")


def _ignore(_: int) -> None:
    """Nobody waits for progress."""


class NoDigest(CorruptData):
    """A file does not end with a digest: it was cut, or never had one."""


def database_size(
    file: BinaryIO, name: str, progress: Callable[[int], object] = _ignore, *, without_digest: bool = False
) -> int:
    """The bytes of a file without the digest that follows the database, which is verified. Blocks. With
    `without_digest` a database that has none is taken, too, as the file `db` of a data folder is one.
    `progress` is called with how many bytes were read so far.

    CorruptData if the digest does not fit, NoDigest if there is none. A file that cannot be a database is not
    read for that: `Database` refuses it.
    """
    size = file.seek(0, SEEK_END)
    if not any(_is_meta(file, at) for at in (0, *_PAGE_SIZES)) or (without_digest and not size % _SECTOR):
        return size
    if size % _SECTOR != DIGEST_BYTES:
        raise NoDigest(
            f"{name}: offset {size}: the digest (SHA-256) is missing with which a snapshot ends, so damage"
            " cannot be told: the file was cut, or is not one of snapshot save"
        )
    size -= DIGEST_BYTES
    digest = sha256()
    file.seek(0)
    left = size
    while left and (piece := file.read(min(left, _READ_BYTES))):
        digest.update(piece)
        left -= len(piece)
        progress(size - left)
    if file.read(DIGEST_BYTES) != digest.digest():
        raise CorruptData(
            f"{name}: offset {size}: the SHA-256 at its end does not fit the {size} bytes before it: the file"
            " is damaged or was cut; take another copy"
        )
    return size


def unverified_size(file: BinaryIO) -> int:
    """The bytes of a file without what may be a digest. Blocks."""
    size = file.seek(0, SEEK_END)
    return size - DIGEST_BYTES if size % _SECTOR == DIGEST_BYTES else size


def is_database(file: BinaryIO) -> bool:
    """Whether a file begins as a bbolt database does, damaged or not. Blocks."""
    return _is_meta(file, 0)


def _is_meta(file: BinaryIO, offset: int) -> bool:
    """Whether a meta page may begin there."""
    file.seek(offset + HEAD.size)
    return file.read(_MAGIC_FIELD.size) == _MAGIC_FIELD.pack(MAGIC)


class _Meta(NamedTuple):
    transaction: int
    root: int
    pages: int
    page_bytes: int


class _Page(NamedTuple):
    """A page with its overflow, read from the file; or one that is inside an element of another."""

    offset: int
    """Where it begins, in bytes from the beginning of the file."""
    kind: int
    elements: int
    data: bytes


class Database:
    """An open database. `bucket` may be called several times; the file must not change meanwhile."""

    def __init__(self, file: BinaryIO, name: str, size: int) -> None:
        """Read the metas and the names of the buckets. Blocks. `size` is that of the database in bytes
        (`database_size`), `name` is for messages.

        CorruptData if it is no bbolt database, is cut short, or damaged.
        """
        self._file = file
        self._name = name
        self._size = size
        self._at = 0
        """Offset of the element that was read last."""
        self._page_bytes = self._find_page_bytes()
        metas = (self._meta(at) for at in (0, self._page_bytes))
        _, root, self._pages, _ = max(meta for meta in metas if meta and meta.page_bytes == self._page_bytes)
        if self._pages * self._page_bytes > size:
            raise self._damaged(
                size, f"cut short: the database has {self._pages} pages of {self._page_bytes} bytes"
            )
        self._buckets: dict[bytes, tuple[int, bytes]] = {}
        for offset, flags, key, value in self._elements(self._leaves(self._page(root, 0))):
            if flags & IS_BUCKET:
                self._add_bucket(offset, key, value)

    @property
    def buckets(self) -> list[bytes]:
        """The names of the buckets, in order."""
        return list(self._buckets)

    def bucket(self, name: bytes) -> Iterator[Pair]:
        """The pairs of a bucket, in the order of their keys; nothing if there is no such bucket. Blocks.
        Buckets in it are left out. CorruptData if it is damaged. Memory: one page.
        """
        if name not in self._buckets:
            return
        offset, value = self._buckets[name]
        root, _ = BUCKET.unpack_from(value)
        first = self._page(root, offset) if root else self._inline(offset, value[BUCKET.size :])
        for _, flags, key, each in self._elements(self._leaves(first)):
            if not flags & IS_BUCKET:
                yield key, each

    def _add_bucket(self, offset: int, name: bytes, value: bytes) -> None:
        """Note a bucket: where its root page is or, of a small one, the page itself."""
        if len(self._buckets) == MAX_BUCKETS:
            raise self._damaged(offset, f"more than {MAX_BUCKETS} buckets")
        if len(name) > MAX_NAME_BYTES:
            raise self._damaged(offset, f"a bucket with a name of {len(name)} bytes")
        if len(value) < BUCKET.size:
            raise self._damaged(offset, f"bucket {name!r} has no root")
        if BUCKET.unpack_from(value)[0]:
            value = value[: BUCKET.size]
        elif len(value) > self._page_bytes:
            raise self._damaged(offset, f"a bucket of {len(value)} bytes in the page that names it")
        self._buckets[name] = offset, value

    def damaged(self, why: str) -> CorruptData:
        """The error for the pair that was read last, if it is not what it should be."""
        return self._damaged(self._at, why)

    def _find_page_bytes(self) -> int:
        """The page size that one of the metas tells: the first is at the beginning, the second a page on."""
        for at in (0, *_PAGE_SIZES):
            meta = self._meta(at)
            if meta is not None and meta.page_bytes in _PAGE_SIZES and at in {0, meta.page_bytes}:
                return meta.page_bytes
        raise self._damaged(0, "not a bbolt database, or both of its meta pages are damaged")

    def _meta(self, at: int) -> _Meta | None:
        """The meta at an offset; None if it is not valid."""
        end = HEAD.size + META_FIELDS.size
        data = self._read(at, end + CHECKSUM.size)
        if len(data) < end + CHECKSUM.size:
            return None
        fields = data[HEAD.size : end]
        magic, version, page_bytes, _, root, _, _, pages, transaction = META_FIELDS.unpack(fields)
        if (magic, version) != (MAGIC, VERSION) or CHECKSUM.unpack_from(data, end)[0] != fnv1a(fields):
            return None
        return _Meta(transaction, root, pages, page_bytes)

    def _leaves(self, first: _Page) -> Iterator[_Page]:
        """The leaf pages of a tree, from left to right."""
        left = self._pages * self._page_bytes - len(first.data)
        if first.kind == LEAF:
            yield first
            return
        path = [self._children(first)]
        while path:
            child = next(path[-1], None)
            if child is None:
                path.pop()
                continue
            page = self._page(*child)
            left -= len(page.data)
            if left < 0:
                raise self._damaged(page.offset, "a tree of more pages than the file has")
            if not page.elements:
                raise self._damaged(page.offset, "an empty page within a tree")
            if page.kind == LEAF:
                yield page
            elif len(path) == MAX_DEPTH:
                raise self._damaged(page.offset, f"a tree of more than {MAX_DEPTH} levels")
            else:
                path.append(self._children(page))

    def _children(self, page: _Page) -> Iterator[tuple[int, int]]:
        """The numbers of the pages below a branch page, each with the offset of the element."""
        if page.kind != BRANCH or not page.elements:
            raise self._damaged(page.offset, f"a page of kind {page.kind} with {page.elements} elements")
        for place, (_, _, number) in enumerate(self._table(BRANCH_ELEMENT, page)):
            yield number, page.offset + HEAD.size + place * BRANCH_ELEMENT.size

    def _elements(self, leaves: Iterator[_Page]) -> Iterator[tuple[int, int, bytes, bytes]]:
        """Of each element of these pages: its offset in the file, its flags, key and value."""
        last: bytes | None = None
        for page in leaves:
            data, size, at = page.data, len(page.data), HEAD.size
            left = size - HEAD.size - page.elements * LEAF_ELEMENT.size
            for flags, distance, key_bytes, value_bytes in self._table(LEAF_ELEMENT, page):
                middle = at + distance + key_bytes
                end = middle + value_bytes
                left -= key_bytes + value_bytes
                if end <= size and left < 0:
                    raise self._damaged(page.offset + at, "an element lies over another one")
                key = data[at + distance : middle]
                if end > size or (last is not None and key <= last):
                    why = "ends outside of its page" if end > size else "is not in the order of the keys"
                    raise self._damaged(page.offset + at, f"an element {why}")
                last = key
                self._at = page.offset + at
                yield page.offset + at, flags, key, data[middle:end]
                at += LEAF_ELEMENT.size

    def _table(self, element: Struct, page: _Page) -> Iterator[tuple[int, ...]]:
        end = HEAD.size + page.elements * element.size
        if end > len(page.data):
            raise self._damaged(page.offset, f"{page.elements} elements do not fit into the page")
        return element.iter_unpack(memoryview(page.data)[HEAD.size : end])

    def _page(self, number: int, named_at: int) -> _Page:
        """Read a page with its overflow. `named_at` is the offset of what names it."""
        if not 2 <= number < self._pages:
            raise self._damaged(named_at, f"page {number} is named, of {self._pages}")
        offset = number * self._page_bytes
        head = self._read(offset, HEAD.size)
        own, kind, count, overflow = HEAD.unpack(head)
        size = (1 + overflow) * self._page_bytes
        if own != number or kind not in {BRANCH, LEAF}:
            raise self._damaged(offset, f"page {own} of kind {kind} in the place of page {number}")
        most = MAX_PAGE_BYTES if kind == LEAF else MAX_BRANCH_BYTES
        if number + overflow >= self._pages or size > most:
            raise self._damaged(offset, f"a page of {size} bytes")
        return _Page(offset, kind, count, self._read(offset, size))

    def _inline(self, offset: int, data: bytes) -> _Page:
        """A small bucket, which is a page within the element that names it."""
        if len(data) < HEAD.size:
            raise self._damaged(offset, "a bucket without a page")
        _, kind, count, _ = HEAD.unpack_from(data)
        if kind != LEAF:
            raise self._damaged(offset, f"a bucket in a page of kind {kind}")
        return _Page(offset, kind, count, data)

    def _read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(max(0, min(size, self._size - offset)))

    def _damaged(self, offset: int, why: str) -> CorruptData:
        return CorruptData(f"{self._name}: offset {offset}: {why}; nothing was changed: take another copy")
