"""Header blocks are decoded as by `hpack`, and cached results stay valid."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hpack import Decoder, Encoder, HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from netstore.net.http2.hpackcache import (
    BLOCKS_KNOWN,
    BLOCKS_KNOWN_SIZE,
    HUFFMAN_LIMIT,
    BadBlock,
    Field,
    HeaderBlocks,
    LargeList,
    decode_text,
    kept_size,
    literal,
    status_field,
)
from tests.support.daemon import ROOT

LIMIT = 10_000
NAMES = st.sampled_from([":path", ":method", "te", "grpc-timeout", "x-own", "content-type", "a" * 200])
VALUES = st.one_of(
    st.sampled_from(["POST", "/etcdserverpb.KV/Put", "trailers", "", "4999971u", "x" * 300, "é", "\x00"]),
    st.text(max_size=40),
)
LISTS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def blocks(limit: int = LIMIT) -> HeaderBlocks[tuple[Field, ...]]:
    return HeaderBlocks(lambda fields: fields, b"grpc-timeout", limit)


def decoded(judge: Decoder, block: bytes) -> list[tuple[bytes, bytes]] | None:
    """What `hpack` decodes; None if it refuses."""
    try:
        return [(bytes(name), bytes(value)) for name, value in judge.decode(block, raw=True)]
    except HPACKError:
        return None


@given(
    st.lists(st.tuples(LISTS, st.booleans(), st.sampled_from([None, None, None, 0, 100, 4096])), max_size=12)
)
def test_blocks_are_decoded_as_by_hpack(stream: list[tuple[Any, bool, int | None]]) -> None:
    encoder, judge, ours = Encoder(), Decoder(), blocks(1 << 20)
    for fields, huffman, resize in stream:
        if resize is not None:
            encoder.header_table_size = resize
        block = bytes(encoder.encode(fields, huffman=huffman))
        assert ours.decode(block) == decoded(judge, block)


@given(st.lists(st.binary(max_size=30), max_size=6))
def test_any_bytes_are_decoded_or_refused_as_by_hpack(stream: list[bytes]) -> None:
    judge, ours = Decoder(), blocks(1 << 20)
    for block in stream:
        expected = decoded(judge, block)
        if expected is None or (all(each & 0xE0 == 0x20 for each in block[:3]) and len(block) > 2):
            with pytest.raises(BadBlock):
                ours.decode(block)
            return
        assert ours.decode(block) == expected


@given(st.lists(LISTS, min_size=1, max_size=4), st.data())
def test_cached_blocks_are_decoded_as_without_a_cache(lists: list[Any], data: st.DataObject) -> None:
    """The model decodes every block."""
    encoder, twin, ours = Encoder(), blocks(1 << 20), blocks(1 << 20)
    for fields in data.draw(st.lists(st.sampled_from(lists), max_size=12)):
        block = bytes(encoder.encode(fields))
        expected = twin.decode(block)
        found, value = ours.read(block)
        names = [name for name, _ in expected] + [b""]
        place = names.index(b"grpc-timeout") if b"grpc-timeout" in names else -1
        first = None if place < 0 or names[place + 1].startswith(b":") else expected[place][1]
        assert value == first
        if value is not None:
            expected.remove((b"grpc-timeout", value))
        assert list(found) == expected


def test_a_repeated_block_is_decoded_once_until_the_table_changes() -> None:
    asked = []

    def mean(fields: tuple[Field, ...]) -> int:
        asked.append(fields)
        return len(asked)

    reader = HeaderBlocks(mean, b"grpc-timeout", LIMIT)
    encoder = Encoder()
    request = [(":method", "POST"), (":path", "/a"), ("te", "trailers")]
    assert reader.read(encoder.encode(request)) == (1, None)
    known = encoder.encode(request)
    assert [reader.read(known) for _ in range(3)] == [(2, None)] * 3
    reader.read(encoder.encode([("x", "new")]))
    again = encoder.encode(request)
    assert again != known
    assert reader.read(again) == (4, None)
    assert asked[3] == asked[0]


def test_blocks_with_literals_without_indexing_are_cached() -> None:
    """nghttp2 sends paths and lengths in this way."""
    asked: list[tuple[Field, ...]] = []
    reader = HeaderBlocks(asked.append, b"", LIMIT)
    block = b"\x83" + literal(b":path", b"/a") + literal(b"own", b"x")
    for _ in range(3):
        reader.read(block)
    assert asked == [((b":method", b"POST"), (b":path", b"/a"), (b"own", b"x"))]
    for _ in range(2):
        reader.read(b"\x20" + block)
    assert len(asked) == 3


def test_a_changed_table_gives_a_block_another_meaning() -> None:
    reader = blocks()
    newest = b"\xbe"
    for value in (b"first", b"second"):
        reader.read(b"\x40\x01x" + bytes((len(value),)) + value)
        assert reader.read(newest) == reader.read(newest) == (((b"x", value),), None)
    reader.read(b"\x20\x3f\xe1\x1f")
    with pytest.raises(BadBlock):
        reader.read(newest)


def test_the_cache_is_bounded_in_blocks() -> None:
    reader = blocks()
    for first in range(2, 15):
        for second in range(2, 62):
            reader.read(bytes((0x80 | first, 0x80 | second)))
    assert len(reader._known) <= BLOCKS_KNOWN


def test_the_cache_is_bounded_in_decoded_bytes() -> None:
    """A byte of a block names an entry of the table, which the cached result keeps in memory."""
    reader = blocks(1 << 20)
    sizes = []
    for first in range(2, 15):
        for second in range(2, 62):
            block = bytes((0x80 | first, 0x80 | second)) * 10
            reader.read(block)
            assert reader._known_size <= BLOCKS_KNOWN_SIZE
            sizes.append(reader._known_size)
    assert max(sizes) > BLOCKS_KNOWN_SIZE // 2
    assert reader._known_size == sum(
        len(block) + kept_size(found[0]) + len(found[1] or b"") for block, found in reader._known.items()
    )
    reader.read(b"\x20\x3f\xe1\x1f")
    assert (len(reader._known), reader._known_size) == (0, 0)
    reader.read(b"\x82" * 1_000)
    assert not reader._known


def test_refused_blocks_are_not_cached() -> None:
    def refuse(fields: tuple[Field, ...]) -> None:
        raise ValueError(str(fields))

    reader = HeaderBlocks(refuse, b"", LIMIT)
    for _ in range(2):
        with pytest.raises(ValueError, match="GET"):
            reader.read(b"\x82")


@pytest.mark.parametrize("count", [1, 20])
def test_the_size_of_a_header_list_is_limited(count: int) -> None:
    ours = blocks(4_000)
    with pytest.raises(LargeList):
        ours.decode(literal(b"x", b"y" * (4_000 // count)) * count)


def test_integers_are_limited() -> None:
    with pytest.raises(BadBlock, match="32 bits"):
        blocks().decode(b"\xff" + b"\x80" * 10 + b"\x01")


@given(st.text("0123456789HMSmun/:-_.~", max_size=40) | st.text(max_size=20))
def test_short_texts_are_decoded_from_huffman_code(text: str) -> None:
    code = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    assert decode_text(bytes(code.encode(text.encode()))) == text.encode()


@given(st.binary(min_size=1, max_size=300), st.binary(max_size=20_000))
def test_hpack_decodes_our_literals(name: bytes, value: bytes) -> None:
    judge = Decoder(1 << 20)
    assert decoded(judge, literal(name, value)) == [(name, value)]
    assert not judge.header_table.dynamic_entries


@pytest.mark.parametrize("status", [100, 200, 204, 206, 301, 304, 400, 404, 415, 500, 503])
def test_hpack_decodes_our_status_fields(status: int) -> None:
    assert decoded(Decoder(), status_field(status)) == [(b":status", b"%d" % status)]
    assert decoded(Decoder(), literal(b"content-type", b"x")) == [(b"content-type", b"x")]


def test_a_block_changes_the_size_of_the_table_at_most_twice() -> None:
    """The smallest size in between and the last are enough (RFC 7541, 4.2)."""
    reader = blocks()
    assert reader.decode(b"\x20\x3f\xe1\x1f\x82") == [(b":method", b"GET")]
    with pytest.raises(BadBlock, match="changes of the table"):
        reader.decode(b"\x20\x3f\xe1\x1f\x20\x82")


def huffman_field(size: int, prefix: bytes = b"\x00\x01x") -> bytes:
    """A field whose value has that many bytes of Huffman code."""
    rest = size - 127
    digits = bytearray()
    while rest >= 128:
        digits.append(rest & 127 | 128)
        rest >>= 7
    digits.append(rest)
    return prefix + b"\xff" + bytes(digits) + (b"\x1c\x64\xd5" * size)[: size - 1] + b"\x1f"


def test_huffman_code_is_limited_in_a_block_and_charged() -> None:
    reader = blocks(1 << 20)
    reader.decode(huffman_field(HUFFMAN_LIMIT // 2) + huffman_field(HUFFMAN_LIMIT // 2 - 10))
    assert reader.cost >= HUFFMAN_LIMIT // 5 - 10
    for block in (huffman_field(HUFFMAN_LIMIT + 1), huffman_field(5_000) * 2):
        with pytest.raises(LargeList, match="Huffman"):
            blocks(1 << 20).decode(block)


def test_decoding_stops_at_too_many_fields() -> None:
    reader = blocks(32 * 100)
    with pytest.raises(LargeList):
        reader.decode(b"\x82" * 101 + b"\x80")  # entry 0 would be an error of its own, but is not decoded
    reader = blocks(1 << 20)
    reader.decode(b"\x82" * 100)
    assert reader.cost == 26
    reader.decode(b"\x40\x01a\x01b" * 100)
    assert reader.cost == 151


def test_only_one_module_uses_what_hpack_does_not_document() -> None:
    """It uses private modules of `hpack`, so a new release has to be checked in one place."""
    used = re.compile(r"^\s*(?:from|import) hpack\.", re.MULTILINE)
    package = ROOT / "netstore"
    users = [path for path in package.rglob("*.py") if used.search(path.read_text())]
    assert users == [package / "net" / "http2" / "hpackcache.py"]
    assert '"hpack>=4.1,<5"' in (ROOT / "pyproject.toml").read_text()
