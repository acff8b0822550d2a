"""Encoding and decoding of a v3 key-value pair: `mvccpb.KeyValue` (v3 API, mvccpb), as it is stored and sent.

Fields are in the order of their numbers, and those that are zero or empty are omitted, as every protobuf
encoder does it.
"""

from __future__ import annotations

from typing import NamedTuple

from netstore.codec import MOST_SHORT, SHORT, Malformed, prefixed, read_varint, varint

_MOST_IN_BYTE = 127
"""The largest number of one byte."""
_MASK64 = 2**64 - 1
_SIGN64 = 2**63

# A field's tag is its number << 3 | wire type (protobuf encoding guide): 2 for bytes, 0 for a number.
_KEY, _CREATED, _MODIFIED, _VERSION, _VALUE, _LEASE = 0x0A, 0x10, 0x18, 0x20, 0x2A, 0x30


class KeyValue(NamedTuple):
    """The fields of a pair. Of a deletion only `key` and `modified` are set."""

    key: bytes
    created: int
    modified: int
    version: int
    value: bytes
    lease: int


def encode(key: bytes, created: int, modified: int, version: int, *, value: bytes, lease: int) -> bytes:
    """The bytes of a pair. About 1 us."""
    size, length = len(key), len(value)
    if 0 < length <= MOST_SHORT and size <= MOST_SHORT and version <= MOST_SHORT:
        # One format for what nearly all pairs have: formatting is most of the work.
        head = b"\n%b%b\x10%b\x18%b\x20%b\x2a%b%b" % (
            SHORT[size],
            key,
            varint(created),
            varint(modified),
            SHORT[version],
            SHORT[length],
            value,
        )
    else:
        numbers = varint(size), key, varint(created), varint(modified), varint(version)
        head = b"\n%b%b\x10%b\x18%b\x20%b" % numbers
        if value:
            head = b"%b\x2a%b%b" % (head, varint(length), value)
    return b"%b\x30%b" % (head, varint(lease & _MASK64)) if lease else head


def encode_bare(key: bytes, created: int, modified: int, version: int, lease: int) -> bytes:
    """The bytes of a pair with an empty value (v3 API, keys_only). Half of what `encode` takes."""
    revision = varint(modified)
    return b"\n%b%b\x10%b\x18%b\x20%b%b" % (
        varint(len(key)),
        key,
        revision if created == modified else varint(created),
        revision,
        varint(version),
        b"\x30" + varint(lease & _MASK64) if lease else b"",
    )


def encode_deletion(key: bytes, modified: int) -> bytes:
    """The bytes that stand for a deletion."""
    return b"\n%b%b\x18%b" % (varint(len(key)), key, varint(modified))


def encode_key(key: bytes) -> bytes:
    """The bytes of a pair that has only a key."""
    return b"\n" + prefixed(key)


def decode_fields(data: bytes) -> tuple[bytes, int, int, int, int, int, int]:
    """The fields of a pair without its value: key, created, modified, version and lease, then the start and
    end of the value. About 1 us, however long the value is.

    Malformed if `encode` or `encode_deletion` cannot have made these bytes.
    """
    created = version = lease = start = end = 0
    size = len(data)
    try:
        if data[0] != _KEY:
            raise Malformed("a pair without a key")
        # Most keys are short and versions low, so lengths and versions of one byte are read here.
        length, at = data[1], 2
        if length > _MOST_IN_BYTE:
            length, at = read_varint(data, 1)
        key = data[at : at + length]
        at += length
        if data[at] == _CREATED:
            created, at = read_varint(data, at + 1)
        if data[at] != _MODIFIED:
            raise Malformed("a pair without a revision")
        modified, at = read_varint(data, at + 1)
        if at < size and data[at] == _VERSION:
            version = data[at + 1]
            at += 2
            if version > _MOST_IN_BYTE:
                version, at = read_varint(data, at - 1)
        if at < size and data[at] == _VALUE:
            length, start = read_varint(data, at + 1)
            at = end = start + length
        if at < size and data[at] == _LEASE:
            lease, at = read_varint(data, at + 1)
    except IndexError:
        raise Malformed("a pair cut short") from None
    if at != size or not key:
        raise Malformed(f"a pair of {size} bytes that says it has {at}")
    return key, created, modified, version, lease - 2 * _SIGN64 if lease >= _SIGN64 else lease, start, end


def decode(data: bytes) -> KeyValue:
    """The pair in these bytes; Malformed if they are none."""
    key, created, modified, version, lease, start, end = decode_fields(data)
    return KeyValue(key, created, modified, version, data[start:end], lease)


def without_value(data: bytes) -> bytes:
    """The same pair with an empty value (v3 API, keys_only)."""
    key, created, modified, version, lease, start, end = decode_fields(data)
    return encode_bare(key, created, modified, version, lease) if start < end else data
