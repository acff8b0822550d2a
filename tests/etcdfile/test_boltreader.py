"""The bbolt reader reads what the writer wrote and what a real etcd wrote, and refuses what is damaged."""

from __future__ import annotations

import io
import struct
from hashlib import sha256
from itertools import pairwise
from subprocess import run
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import CorruptData
from netstore.etcdfile.boltpages import fnv1a
from netstore.etcdfile.boltreader import (
    MAX_BRANCH_BYTES,
    MAX_BUCKETS,
    MAX_DEPTH,
    MAX_NAME_BYTES,
    Database,
    NoDigest,
    database_size,
    is_database,
)
from netstore.etcdfile.boltwriter import PAGE_BYTES, write
from tests.support.peers import start_etcd

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Pairs = dict[bytes, bytes]


def written(buckets: dict[bytes, Pairs]) -> bytes:
    file = io.BytesIO()
    write(file, {name: sorted(pairs.items()) for name, pairs in buckets.items()})
    return file.getvalue()


def opened(data: bytes) -> Database:
    return Database(io.BytesIO(data), "a file", len(data))


def content(data: bytes) -> dict[bytes, Pairs]:
    database = opened(data)
    return {name: dict(database.bucket(name)) for name in database.buckets}


def changed(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=8),
        st.dictionaries(st.binary(min_size=1, max_size=40), st.binary(max_size=3000), max_size=40),
        max_size=5,
    )
)
def test_what_was_written_is_read(buckets: dict[bytes, Pairs]) -> None:
    assert content(written(buckets)) == buckets


def test_a_database_is_known_by_its_beginning() -> None:
    data = written({b"key": {}})
    assert is_database(io.BytesIO(data))
    assert is_database(io.BytesIO(data[:100])), "what is cut short, too"
    assert not any(map(is_database, (io.BytesIO(), io.BytesIO(bytes(4096)), io.BytesIO(data[:17]))))


@pytest.mark.parametrize(("count", "key", "value"), [(20_000, 8, 8), (300, 2_500, 10), (3, 10, 1_000_000)])
def test_trees_of_several_levels(count: int, key: int, value: int) -> None:
    pairs = {number.to_bytes(key, "big"): bytes((number % 256,)) * value for number in range(count)}
    found = list(opened(written({b"key": pairs})).bucket(b"key"))
    assert dict(found) == pairs
    assert all(one < two for (one, _), (two, _) in pairwise(found))


def test_a_bucket_that_is_not_there_is_empty() -> None:
    assert list(opened(written({b"a": {b"k": b"v"}})).bucket(b"b")) == []


def test_each_changed_byte_is_refused_or_changes_no_structure() -> None:
    """A changed byte is found, or lies in a key, a value or a gap: the database has no checksum of those."""
    data = written({b"key": {b"%02d" % number: b"value" * number for number in range(40)}, b"meta": {}})
    whole = content(data)
    refusals: list[str] = []
    for at in range(0, len(data), 3):
        try:
            found = content(changed(data, at, bytes((data[at] ^ 0xFF,))))
        except CorruptData as error:
            refusals.append(str(error))
        else:
            assert sum(map(len, found.values())) <= sum(map(len, whole.values()))
    assert len(refusals) > 40 * 3, "heads and elements are checked"
    assert all("a file: offset " in text for text in refusals)


def test_one_damaged_meta_is_not_needed() -> None:
    data = written({b"a": {b"k": b"v"}})
    for at in (16, PAGE_BYTES + 16):
        assert content(changed(data, at, b"\0\0\0\0")) == {b"a": {b"k": b"v"}}
    with pytest.raises(CorruptData, match="offset 0: not a bbolt database"):
        opened(changed(changed(data, 16, b"\0"), PAGE_BYTES + 16, b"\0"))


def test_a_file_that_was_cut_is_refused() -> None:
    data = written({b"a": {b"%05d" % number: b"v" * 100 for number in range(1000)}})
    for size in (0, 10, 100, PAGE_BYTES, len(data) - PAGE_BYTES, len(data) - 1):
        with pytest.raises(CorruptData, match=r"a file: offset \d+"):
            content(data[:size])


def test_pages_that_name_each_other_end() -> None:
    """A branch page that is its own child."""
    data = written({b"a": {b"%05d" % number: b"v" * 100 for number in range(1000)}})
    branch = next(at for at in range(0, len(data), PAGE_BYTES) if struct.unpack_from("<QH", data, at)[1] == 1)
    own = branch // PAGE_BYTES
    with pytest.raises(CorruptData, match=f"more than {MAX_DEPTH} levels"):
        content(changed(data, branch + 16 + 8, struct.pack("<Q", own)))


def pages(*given: bytes, root: int = 2) -> bytes:
    """A database with these pages from page 2 on."""
    whole = b"".join(page.ljust(-(-len(page) // PAGE_BYTES) * PAGE_BYTES, b"\0") for page in given)
    count = 2 + len(whole) // PAGE_BYTES
    fields = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, PAGE_BYTES, 0, root, 0, count, count, 9)
    meta = struct.pack("<QHHI", 0, 4, 0, 0) + fields + struct.pack("<Q", fnv1a(fields))
    return meta.ljust(2 * PAGE_BYTES, b"\0") + whole


def branch(own: int, children: Sequence[tuple[bytes, int]]) -> bytes:
    elements, keys = [], b""
    for place, (key, child) in enumerate(children):
        distance = (len(children) - place) * 16 + len(keys)
        elements.append(struct.pack("<IIQ", distance, len(key), child))
        keys += key
    return struct.pack("<QHHI", own, 1, len(children), 0) + b"".join(elements) + keys


def leaf(own: int, overflow: int, pairs: Sequence[tuple[bytes, bytes]], flags: int = 0) -> bytes:
    elements, content = [], b""
    for place, (key, value) in enumerate(pairs):
        distance = (len(pairs) - place) * 16 + len(content)
        elements.append(struct.pack("<IIII", flags, distance, len(key), len(value)))
        content += key + value
    return struct.pack("<QHHI", own, 2, len(pairs), overflow) + b"".join(elements) + content


def test_pages_that_lie_in_each_other_are_read_once() -> None:
    """Each claims all the pages after it, so that a file of n pages would be read as n * n / 2."""
    count = 50
    leaves = [leaf(3 + at, count - 1 - at, [(b"%02d" % at, b"v" * 100)]) for at in range(count)]
    data = pages(branch(2, [(b"%02d" % at, 3 + at) for at in range(count)]), *leaves)
    with pytest.raises(CorruptData, match="a tree of more pages than the file has"):
        opened(data)
    apart = [leaf(3 + at, 0, [(b"%02d" % at, b"v" * 100)]) for at in range(count)]
    assert opened(pages(branch(2, [(b"%02d" % at, 3 + at) for at in range(count)]), *apart)).buckets == []


def test_a_branch_page_has_a_bound_of_its_own() -> None:
    """One for each level is in memory."""
    large = struct.pack("<QHHI", 2, 1, 1, MAX_BRANCH_BYTES // PAGE_BYTES) + bytes(MAX_BRANCH_BYTES)
    with pytest.raises(CorruptData, match=f"a page of {MAX_BRANCH_BYTES + PAGE_BYTES} bytes"):
        opened(pages(large))


def test_what_is_kept_of_the_buckets_is_bounded() -> None:
    value = struct.pack("<QQ", 3, 0)
    big = leaf(2, 1023, [(b"a", value + bytes(1000 * PAGE_BYTES)), (b"b", value)], flags=1)
    database = opened(pages(big.ljust(1024 * PAGE_BYTES, b"\0"), leaf(3, 0, [])))
    assert database.buckets == [b"a", b"b"]
    assert sum(len(value) for _, value in database._buckets.values()) == 32
    many = leaf(2, 10, [(b"%04d" % at, value) for at in range(MAX_BUCKETS + 1)], flags=1)
    with pytest.raises(CorruptData, match=f"more than {MAX_BUCKETS} buckets"):
        opened(pages(many.ljust(11 * PAGE_BYTES, b"\0")))
    named = leaf(2, 10, [(bytes(MAX_NAME_BYTES + 1), value)], flags=1)
    with pytest.raises(CorruptData, match="a bucket with a name of 32769 bytes"):
        opened(pages(named.ljust(11 * PAGE_BYTES, b"\0")))
    inline = leaf(2, 10, [(b"a", bytes(PAGE_BYTES + 1))], flags=1)
    with pytest.raises(CorruptData, match="bytes in the page that names it"):
        opened(pages(inline.ljust(11 * PAGE_BYTES, b"\0")))


def test_a_page_that_claims_to_be_large_is_not_read() -> None:
    data = written({b"a": {b"k": b"v"}})
    page = 3 * PAGE_BYTES
    with pytest.raises(CorruptData, match=f"offset {page}: a page of "):
        content(changed(data, page + 12, struct.pack("<I", 2**31)))


def test_a_small_bucket_lies_in_the_page_that_names_it() -> None:
    """As bbolt stores a bucket whose pages would be mostly empty."""
    inner = struct.pack("<QHHI", 0, 2, 1, 0) + struct.pack("<IIII", 0, 16, 1, 5) + b"kvalue"
    value = struct.pack("<QQ", 0, 7) + inner
    root = struct.pack("<QHHI", 3, 2, 1, 0) + struct.pack("<IIII", 1, 16, 4, len(value)) + b"meta" + value
    fields = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, PAGE_BYTES, 0, 3, 0, 2, 4, 9)
    meta = struct.pack("<QHHI", 0, 4, 0, 0) + fields + struct.pack("<Q", fnv1a(fields))
    data = b"".join(page.ljust(PAGE_BYTES, b"\0") for page in (meta, b"", b"", root))
    assert content(data) == {b"meta": {b"k": b"value"}}


def test_elements_that_share_their_bytes_are_refused() -> None:
    """A page of 256 MiB with 65,535 such elements would be copied as terabytes."""
    elements = struct.pack("<IIII", 0, 32, 1, 6) + struct.pack("<IIII", 0, 17, 1, 5)
    inner = struct.pack("<QHHI", 0, 2, 2, 0) + elements + b"abvalue"
    database = opened(written({}))
    with pytest.raises(CorruptData, match="an element lies over another one"):
        list(database._elements(iter([database._inline(0, inner)])))


def test_the_digest_behind_a_database() -> None:
    data = written({b"a": {b"k": b"v"}})
    assert database_size(io.BytesIO(data), "f", without_digest=True) == len(data)
    with pytest.raises(NoDigest, match=f"f: offset {len(data)}: the digest .* is missing"):
        database_size(io.BytesIO(data), "f")
    for without in (False, True):
        with pytest.raises(NoDigest):
            database_size(io.BytesIO(data[:-1]), "f", without_digest=without)
    signed = data + sha256(data).digest()
    read: list[int] = []
    assert database_size(io.BytesIO(signed), "f", read.append) == len(data)
    assert read[-1] == len(data)
    with pytest.raises(CorruptData, match=f"f: offset {len(data)}: the SHA-256"):
        database_size(io.BytesIO(changed(signed, 5000, b"x")), "f")


@pytest.mark.peer("etcd", "etcdctl")
def test_a_snapshot_of_a_real_etcd(tmp_path: Path) -> None:
    file = tmp_path / "snapshot.db"
    with start_etcd(tmp_path) as etcd:
        ctl = ("etcdctl", "--endpoints", etcd.url, "--dial-timeout", "60s", "--command-timeout", "120s")
        env = {"ETCDCTL_API": "3", "PATH": "/usr/bin"}
        for number in range(300):
            key, value = f"/registry/pods/{number:04}", "x" * (number * 30)
            run((*ctl, "put", key, value), env=env, check=True, capture_output=True)
        run((*ctl, "del", "/registry/pods/0007"), env=env, check=True, capture_output=True)
        run((*ctl, "snapshot", "save", str(file)), env=env, check=True, capture_output=True)
    with file.open("rb") as opened_file:
        size = database_size(opened_file, "snapshot.db")
        assert size == file.stat().st_size - 32
        database = Database(opened_file, "snapshot.db", size)
        assert {b"key", b"lease", b"meta", b"auth", b"members"} <= set(database.buckets)
        keys = list(database.bucket(b"key"))
    assert len(keys) == 301
    assert keys[-1][0] == struct.pack(">Qc", 302, b"_") + bytes(8) + b"t"
    assert b"/registry/pods/0299" in keys[299][1]
    assert len(keys[299][1]) > 299 * 30
