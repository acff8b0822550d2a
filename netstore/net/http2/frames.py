"""Frames of HTTP/2: their kinds, flags, error codes and settings, and how they are written (RFC 9113, 4, 6
and 7).
"""

from __future__ import annotations

from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113, 3.4)."""

# Frame types (RFC 9113, 6).
DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

# Flags.
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

# Error codes (RFC 9113, 7).
NO_ERROR: Final = 0
PROTOCOL_ERROR: Final = 1
INTERNAL_ERROR: Final = 2
FLOW_CONTROL_ERROR: Final = 3
STREAM_CLOSED: Final = 5
FRAME_SIZE_ERROR: Final = 6
REFUSED_STREAM: Final = 7
CANCEL: Final = 8
COMPRESSION_ERROR: Final = 9
ENHANCE_YOUR_CALM: Final = 11

# Settings (RFC 9113, 6.5.2).
SET_TABLE_SIZE: Final = 1
SET_ENABLE_PUSH: Final = 2
SET_MAX_STREAMS: Final = 3
SET_INITIAL_WINDOW: Final = 4
SET_MAX_FRAME: Final = 5
SET_LIST_SIZE: Final = 6

MAX_FRAME: Final = 16_384
"""Bytes of the payload of a frame we accept: the default, which every client keeps to."""

LEAST_FRAME_LIMIT: Final = 16_384
"""The smallest SETTINGS_MAX_FRAME_SIZE a peer may set, and its value before SETTINGS."""

MAX_WINDOW: Final = 2**31 - 1
FRAME_HEAD: Final = Struct(">IBI")
read_head: Final = FRAME_HEAD.unpack_from
"""Length and kind in one number, flags, and stream of the frame at an offset. It has a name of its own,
because a method of an imported object is looked up, and bound, at each call.
"""
NUMBER: Final = Struct(">I")
SETTING: Final = Struct(">HI")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The bytes of one frame."""
    return FRAME_HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


class ConnectionFault(Exception):  # noqa: N818 - named for its scope in RFC 9113, 5.4.1
    """The connection must end, with this error code. The text goes along as debug data."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class StreamFault(Exception):  # noqa: N818 - named for its scope in RFC 9113, 5.4.2
    """The stream must be reset, with this error code: its header list is malformed or cannot be routed."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def unpadded(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """The bounds of a padded payload without its padding (RFC 9113, 6.1)."""
    if start == stop:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a padded frame without its length")
    padding = data[start]
    start += 1
    if start + padding > stop:
        raise ConnectionFault(PROTOCOL_ERROR, "more padding than payload")
    return start, stop - padding
