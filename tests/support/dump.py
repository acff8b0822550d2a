"""Byte dumps in the format documents: read back, so that a test can hold them to the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

DOCUMENTS: Final = Path(__file__).resolve().parents[2] / "contrib" / "doc"

_LINE: Final = re.compile(r" {4}[0-9a-f]{4}  ((?:[0-9a-f]{2} ?){1,16}) *(?:  .*)?")


def dumped(document: str, heading: str) -> bytes:
    """The bytes of the first dump below this heading."""
    text = (DOCUMENTS / document).read_text().partition(f"\n{heading}\n")[2]
    assert text, f"{document} has no heading {heading!r}"
    found: list[str] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match:
            found.append(match[1])
        elif found or line.startswith("#"):
            break
    return bytes.fromhex("".join(found))


def dump(data: bytes) -> str:
    """The lines of a dump."""
    lines = []
    for at in range(0, len(data), 16):
        piece = data[at : at + 16]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
        lines.append(f"    {at:04x}  {piece.hex(' '):47}  {shown}\n")
    return "".join(lines)
