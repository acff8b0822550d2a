"""What a program does with each flag of the one that it replaces, as a list of its manual page."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from netstore.ops.layers import OWN_FLAGS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from netstore.ops.layers import Layered


def answer(layered: Layered[Any], flag: str, difference: str = "") -> str:
    """What the program does with a flag. KeyError if that is not known."""
    served = {name: each for each in layered.settings() for name in each.flags}
    differs = f"; {difference}" if difference else ""
    if flag in OWN_FLAGS:
        return f"served{differs}"
    if flag in served:
        first = served[flag].flags[0]
        return f"served{f', as --{first}' if first != flag else ''}{differs}"
    foreign = layered.foreign[flag]
    if foreign.harmless is None:
        return f"accepted, without effect: {foreign.reason}"
    if foreign.pattern:
        return f"accepted in part, without effect: {foreign.reason}"
    words = " and ".join(word or "an empty value" for word in foreign.harmless)
    return f"refused ({words} accepted): {foreign.reason}" if words else f"refused: {foreign.reason}"


def table(rows: Iterable[tuple[str, str, str]]) -> str:
    """The list, of flags, the releases that have them, and the answers."""
    lines = [".Bl -tag -width Ds -compact\n"]
    for flag, releases, text in rows:
        wrapped = textwrap.fill(f"{text}.", 79, break_on_hyphens=False)
        lines.append(f".It Li --{flag} Pq {releases}\n{wrapped}\n")
    return "".join([*lines, ".El\n"])


def filled(page: str, begin: str, end: str, content: str) -> str:
    """The page with this between its two comments. ValueError without them."""
    head, found, rest = page.partition(begin)
    _, last, tail = rest.partition(end)
    if not found or not last:
        raise ValueError("the page does not have the two comments")
    return f"{head}{begin}{content}{end}{tail}"
