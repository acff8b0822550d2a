"""The envelope: what is sealed comes back, any bytes may be read, and it is as the document says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from netstore.errors import CorruptData
from netstore.state import envelope
from netstore.state.commands import encode
from netstore.state.envelope import HEAD_BYTES, seal
from netstore.state.v3.commands import Put
from tests.support.dump import dump, dumped

U64 = st.integers(0, 2**64 - 1)


@given(st.binary(max_size=40), U64, st.integers(1, 2**16 - 1), U64, st.binary(max_size=300))
def test_reading_a_sealed_payload_gives_what_was_sealed(
    command: bytes, request: int, level: int, wall: int, principal: bytes
) -> None:
    payload = seal(command, request=request, level=level, wall=wall, principal=principal)
    assert envelope.read(payload) == (1, level, request, wall, principal[:255], command)
    assert envelope.request_of(payload) == request
    assert envelope.command_of(payload) == command
    assert envelope.is_bare(payload) is (not command)
    assert envelope.read(envelope.answering(payload, b"other"))[1:] == (
        *(level, request, wall, principal[:255]),
        b"other",
    )


@given(st.binary(max_size=20), st.binary(max_size=30), st.booleans())
def test_the_short_way_gives_what_the_long_one_gives(command: bytes, noise: bytes, sealed: bool) -> None:
    payload = seal(command, principal=noise) if sealed else b"\x01" + noise
    try:
        found = envelope.read(payload)
    except CorruptData:
        assert envelope.first_level_command(payload) is None
    else:
        expected = (found.command or None) if (found.format, found.level) == (1, 1) else None
        assert envelope.first_level_command(payload) == expected


@given(st.binary(max_size=30))
def test_any_bytes_are_an_envelope_or_corrupt(data: bytes) -> None:
    envelope.is_bare(data)
    try:
        found = envelope.read(data)
    except CorruptData:
        assert len(data) < HEAD_BYTES + (data[1] if len(data) > 1 else 0) or len(data) < HEAD_BYTES
    else:
        assert len(data) == HEAD_BYTES + len(found.principal) + len(found.command)


def test_an_entry_is_as_documented() -> None:
    written = seal(
        encode(Put(b"/registry/a", b"v")),
        request=0x0102030405060708,
        wall=1_795_000_000_000_000_000,
        principal=b"node1",
    )
    shown = dumped("format-entry.md", "## A worked dump")
    assert written == shown, f"it is\n{dump(written)}"
