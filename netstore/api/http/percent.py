"""Percent decoding (RFC 3986, section 2.1), at a cost that hardly depends on the number of escapes.

A value of 10 MiB in which every byte is escaped takes the standard library more than a second; here it takes
0.06 to 0.1 s. Values that may be long are decoded in pieces (`api.v2.form`).
"""

from __future__ import annotations

from binascii import a2b_qp
from typing import Final
from urllib.parse import unquote_to_bytes

_KINDS: Final = bytes(
    ord("h") if byte in b"0123456789abcdefABCDEF" else byte if byte == ord("%") else ord(".")
    for byte in range(256)
)
_AS_QUOTED_PRINTABLE: Final = bytes.maketrans(b"%", b"=")
_FEW: Final = 60
"""With at most one escape in this many bytes, the standard library is faster."""


class BadEscapeError(ValueError):
    """A percent sign is not followed by two hexadecimal digits; `escape` is that sign with what follows."""

    def __init__(self, escape: bytes) -> None:
        super().__init__("a percent sign is not followed by two hexadecimal digits")
        self.escape = escape


def decode(text: bytes) -> bytes:
    """The text decoded once; a plus sign stays one. Raises BadEscapeError for the first malformed escape."""
    if b"%" not in text:
        return text
    bad = text.translate(_KINDS).replace(b"%hh", b"...").find(b"%")
    if bad >= 0:
        raise BadEscapeError(text[bad : bad + 3])
    if text.count(b"%") * _FEW < len(text):
        return unquote_to_bytes(text)
    # Quoted-printable (RFC 2045, 6.7) is the same with `=` instead of `%`, and is decoded in C. Its soft line
    # breaks do not occur: each `=` is followed by two digits here.
    return a2b_qp(text.replace(b"=", b"%3D").translate(_AS_QUOTED_PRINTABLE))
