"""HPACK for requests: decoding header blocks, with a cache (RFC 7541).

Clients repeat themselves: after its first request a connection sends the same header block again and
again, without changing the dynamic table. Such a block is remembered with its meaning until the table
changes; decoding it again is one dictionary look-up. Clients that send a time limit with every call may
change the table every time, so a block that is not remembered is decoded here, with the tables and the
Huffman code of `hpack`: 6 us, where its general decoder takes 50.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from hpack import Decoder, HPACKError
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Field = tuple[bytes, bytes]
"""Name and value of a header field."""

Meaning = TypeVar("Meaning")

BLOCKS_KNOWN: Final = 64
"""Blocks remembered by one connection; at this bound, or that of bytes, all are forgotten."""

BLOCKS_KNOWN_SIZE: Final = 32 * 1024
"""Bytes of those blocks with their meaning, as `kept_size` counts: clients repeat two or three blocks."""

HUFFMAN_LIMIT: Final = 8 * 1024
"""Bytes of Huffman code in one header block. Decoding takes 0.2 us for each, so this is 1.5 ms."""

FIELD_COST: Final = 120
"""Bytes of memory for a field beside its name and value: a tuple and two strings."""

_LIST_COST: Final = 300
_LOOKUP_COST: Final = 60
"""Bytes of memory for the `Head` of a list, and for each field that is looked up in it."""

_STATIC: Final[tuple[Field, ...]] = ((b"", b""), *((bytes(n), bytes(v)) for n, v in HeaderTable.STATIC_TABLE))
_FIRST_DYNAMIC: Final = len(_STATIC)
_DYNAMIC_INDEX: Final = 0x80 | _FIRST_DYNAMIC
_ENTRY_OVERHEAD: Final = 32
_LARGEST_ENTRY: Final = HeaderTable.DEFAULT_SIZE + _ENTRY_OVERHEAD
_BLOCK_KNOWN_SIZE: Final = 4096
_SHORT_TEXT: Final = 32
_RESIZES: Final = 2
_FIELDS_PER_UNIT: Final = 4
_CODED_PER_UNIT: Final = 5
_TEXTS_KNOWN: Final = 4096
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC))) if index}
_STATUSES: Final = {value: index for index, (name, value) in enumerate(_STATIC) if name == b":status"}


def kept_size(fields: Iterable[Field]) -> int:
    """Bytes of memory for a header list and the `Head` that is made of it. O(fields)."""
    return _LIST_COST + sum(len(name) + len(value) + FIELD_COST + _LOOKUP_COST for name, value in fields)


class BadBlock(Exception):  # noqa: N818 - named for what was found
    """A header block that cannot be decoded; the tables of both sides differ from here on."""


class LargeList(BadBlock):
    """A header list beyond the limit; it was not decoded to its end, so the tables differ too."""


class HeaderBlocks(Generic[Meaning]):
    """The receiving half of one connection's header compression.

    `mean` turns a list of fields into its meaning; what it raises is passed on, and not remembered. The
    field named `varying`, which differs from request to request, is left out of the list and returned
    beside it. `limit` is the size of a list as RFC 9113 (6.5.2) counts it.
    """

    __slots__ = (
        "_changed",
        "_decoder",
        "_entries",
        "_known",
        "_known_size",
        "_limit",
        "_mean",
        "_most",
        "_table",
        "_varying",
        "cost",
        "find",
        "held",
    )

    def __init__(self, mean: Callable[[tuple[Field, ...]], Meaning], varying: bytes, limit: int) -> None:
        self._mean = mean
        self._varying = varying
        self._limit = limit
        self._most = limit // _ENTRY_OVERHEAD
        self.cost = 0
        """Units of work of the last block that was decoded, about a microsecond each; the caller that
        charges them resets it to 0.
        """
        self._decoder = Decoder(limit)
        self._table = self._decoder.header_table
        self._entries = self._table.dynamic_entries
        self._known: dict[bytes, tuple[Meaning, bytes | None]] = {}
        self.find: Callable[[bytes], tuple[Meaning, bytes | None] | None] = self._known.get
        """The result of `read` for a block that is remembered, None for any other."""
        self._known_size = 0
        self._changed = False
        self.held = 0
        """Bytes that the dynamic table and the remembered blocks take at most. An attribute, because it is
        read in every turn of the connection. It is not up to date after a block that could not be decoded:
        such a connection fails.
        """

    def read(self, block: bytes) -> tuple[Meaning, bytes | None]:
        """The meaning of a block, and the value of the varying field. Raises BadBlock."""
        found = self._known.get(block)
        if found is not None:
            return found
        self._changed = False
        fields = self.decode(block)
        value = None
        for place, field in enumerate(fields):
            if field[0] == self._varying:
                # If a pseudo-header field follows, the list is malformed, and `mean` must see all of it.
                if not (place + 1 < len(fields) and fields[place + 1][0].startswith(b":")):
                    value = field[1]
                    del fields[place]
                break
        found = self._mean(tuple(fields)), value
        if not self._changed:
            self._learn(block, found, kept_size(fields) + len(block) + len(value or b""))
        return found

    def _learn(self, block: bytes, found: tuple[Meaning, bytes | None], size: int) -> None:
        """Remember the meaning of a block, which holds until the table changes: decoding reads nothing
        else. A list can be far larger than its block, so both are counted.
        """
        if size > _BLOCK_KNOWN_SIZE:
            return
        if len(self._known) >= BLOCKS_KNOWN or self._known_size + size > BLOCKS_KNOWN_SIZE:
            self._known.clear()
            self._known_size = 0
        self._known[block] = found
        self._known_size += size
        self._count()

    def forget(self) -> None:
        """Nothing more will be decoded: free the remembered blocks and the table."""
        self._change()
        self._entries.clear()
        self.held = 0

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a block, in order. Raises BadBlock.

        O(bytes), and for literals that enter the table O(entries evicted).
        """
        try:
            return self._walk(block)
        except IndexError:
            raise BadBlock("a header block ends early, or names an entry that is not there") from None
        except HPACKError as fault:
            raise BadBlock(str(fault)) from None

    def _walk(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        coded = added = 0
        most = self._most
        entries = self._entries
        position = self._resize(block)
        size = len(block)
        while position < size:
            first = block[position]
            position += 1
            if first & 0x80:
                if first < _DYNAMIC_INDEX and first != 0x80:
                    field = _STATIC[first & 0x7F]
                elif 0x80 < first < 0xFF:
                    field = entries[first - _DYNAMIC_INDEX]
                else:
                    index, position = _number(block, position, 0x7F) if first == 0xFF else (0, position)
                    field = self._entry(index)
            elif first & 0x60 == 0x20:
                raise BadBlock("dynamic table size update after a field")
            else:
                mask = 0x3F if first & 0x40 else 0x0F
                index = first & mask
                if index == mask:
                    index, position = _number(block, position, mask)
                if index:
                    name = self._entry(index)[0]
                else:
                    start = position
                    name, position = _text(block, start)
                    if block[start] & 0x80:
                        coded += position - start
                start = position
                value, position = _text(block, start)
                if block[start] & 0x80:
                    coded += position - start
                    if coded > HUFFMAN_LIMIT:
                        raise LargeList(f"more than {HUFFMAN_LIMIT} bytes of Huffman code in a header block")
                field = (name, value)
                if first & 0x40:
                    added += 1
                    self._change()
                    self._table.add(name, value)
            fields.append(field)
            if size > most and len(fields) > most:
                raise LargeList(f"header list larger than {self._limit} bytes")
        self.cost = 1 + added + (len(fields) + added) // _FIELDS_PER_UNIT + coded // _CODED_PER_UNIT
        if len(fields) * _LARGEST_ENTRY + size > self._limit:
            self._measure(fields)
        if self._changed:
            self._count()
        return fields

    def _count(self) -> None:
        """Bring `held` up to date."""
        entries = len(self._entries)
        table = HeaderTable.DEFAULT_SIZE + FIELD_COST * entries if entries else 0
        self.held = self._known_size + table

    def _measure(self, fields: list[Field]) -> None:
        """Raise LargeList if the list is too large. Not called for a list that cannot be: a field comes
        from the block, or from a table whose entries are bounded.
        """
        if sum(len(name) + len(value) + _ENTRY_OVERHEAD for name, value in fields) > self._limit:
            raise LargeList(f"header list larger than {self._limit} bytes")

    def _resize(self, block: bytes) -> int:
        """Apply table size updates at the start of a block; returns the position of the first field. More
        than two are never needed: the smallest size in between and the last (RFC 7541, 4.2).
        """
        position = 0
        count = 0
        while position < len(block) and block[position] & 0xE0 == 0x20:
            count += 1
            if count > _RESIZES:
                raise BadBlock(f"more than {_RESIZES} changes of the table's size in a header block")
            if block[position] & 0x1F == 0x1F:
                _, position = _number(block, position + 1, 0x1F)
            else:
                position += 1
        if position:
            self._change()
            self._decoder.decode(block[:position], raw=True)
        return position

    def _change(self) -> None:
        """The table changes, so remembered blocks would have another meaning: forget them."""
        self._changed = True
        if self._known:
            self._known.clear()
            self._known_size = 0

    def _entry(self, index: int) -> Field:
        if index >= _FIRST_DYNAMIC:
            return self._entries[index - _FIRST_DYNAMIC]
        if index == 0:
            raise BadBlock("a header block names entry 0")
        return _STATIC[index]


def _number(block: bytes, position: int, value: int) -> tuple[int, int]:
    """The rest of an integer whose prefix is full (RFC 7541, 5.1), and the position behind it."""
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise BadBlock("a number of more than 32 bits in a header block")


def _text(block: bytes, position: int) -> tuple[bytes, int]:
    """A string (RFC 7541, 5.2), and the position behind it."""
    first = block[position]
    position += 1
    length = first & 0x7F
    if length == 0x7F:
        length, position = _number(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise BadBlock("a string longer than its header block")
    text = block[position:end]
    if not first & 0x80:
        return text, end
    if length > HUFFMAN_LIMIT:
        raise LargeList(f"more than {HUFFMAN_LIMIT} bytes of Huffman code in a header block")
    return (decode_text(text) if length <= _SHORT_TEXT else bytes(decode_huffman(text))), end


def _short_codes() -> tuple[tuple[int, int], ...]:
    """For every byte, the symbol whose Huffman code begins it, and the length of that code; 0 for codes
    longer than a byte.
    """
    found = [(0, 0)] * 256
    for symbol, (code, length) in enumerate(zip(REQUEST_CODES, REQUEST_CODES_LENGTH, strict=True)):
        if length <= 8:
            first = code << (8 - length)
            found[first : first + (1 << (8 - length))] = [(symbol, length)] * (1 << (8 - length))
    return tuple(found)


_SHORT_CODES: Final = _short_codes()


@lru_cache(_TEXTS_KNOWN)
def decode_text(text: bytes) -> bytes:
    """Decode the Huffman code of a short string (RFC 7541, 5.2 and B). Raises HPACKError.

    Digits and letters, of which time limits consist, are decoded symbol by symbol; everything else by
    `hpack`.
    """
    bits = int.from_bytes(text, "big") << 8 | 0xFF
    left = len(text) * 8
    decoded = bytearray()
    while left >= 5:
        symbol, length = _SHORT_CODES[bits >> left & 0xFF]
        if not 0 < length <= left:
            break
        decoded.append(symbol)
        left -= length
    if left >= 8 or ~bits >> 8 & ((1 << left) - 1):
        return bytes(decode_huffman(text))
    return bytes(decoded)


def literal(name: bytes, value: bytes) -> bytes:
    """A header field that is not added to the table (RFC 7541, 6.2.2), so that the same bytes mean the
    same to every peer. Not Huffman-coded: that would cost more here than the bytes it saves.
    """
    index = _STATIC_NAMES.get(name, 0)
    head = _prefixed(index, 0x0F) if index else b"\0" + _prefixed(len(name), 0x7F) + name
    return head + _prefixed(len(value), 0x7F) + value


def status_field(status: int) -> bytes:
    """The `:status` pseudo-header field of a response."""
    indexed = _STATUSES.get(b"%d" % status)
    return bytes((0x80 | indexed,)) if indexed else literal(b":status", b"%d" % status)


def _prefixed(number: int, full: int) -> bytes:
    """An integer (RFC 7541, 5.1) whose first byte has no other bits set."""
    if number < full:
        return bytes((number,))
    digits = bytearray((full,))
    number -= full
    while number >= 0x80:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)
