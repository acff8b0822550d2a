"""Write what netstore-agent does with each flag of flanneld into its manual page.

    python -m contrib.flannelflags

The text is between two comments of the page; `tests/tidy/test_flannelflags.py` compares it.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

from netstore.ops.agent import AGENT
from netstore.ops.flannel_flags import DIFFERENCES, FLAGS
from netstore.ops.layers import OWN_FLAGS

PAGE: Final = Path(__file__).parents[1] / "man/netstore-agent.8"
BEGIN: Final = '.\\" flags of flanneld: written by python -m contrib.flannelflags\n'
END: Final = '.\\" end of the flags of flanneld\n'


def answer(flag: str) -> str:
    """What the agent does with a flag of flanneld. KeyError if that is not known."""
    served = {name: each for each in AGENT.settings() for name in each.flags}
    difference = f"; {DIFFERENCES[flag]}" if flag in DIFFERENCES else ""
    if flag in OWN_FLAGS:
        return f"served{difference}"
    if flag in served:
        first = served[flag].flags[0]
        return f"served{f', as --{first}' if first != flag else ''}{difference}"
    foreign = AGENT.foreign[flag]
    if foreign.harmless is None:
        return f"accepted, without effect: {foreign.reason}"
    words = " and ".join(word or "an empty value" for word in foreign.harmless)
    return f"refused ({words} accepted): {foreign.reason}" if words else f"refused: {foreign.reason}"


def table() -> str:
    """The list for the page."""
    lines = [".Bl -tag -width Ds -compact\n"]
    for flag, releases in FLAGS.items():
        text = textwrap.fill(f"{answer(flag)}.", 79, break_on_hyphens=False)
        lines.append(f".It Li --{flag} Pq {releases}\n{text}\n")
    return "".join([*lines, ".El\n"])


def filled(page: str) -> str:
    """The page with the list of now between its two comments. ValueError without them."""
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page does not have the two comments")
    return f"{head}{BEGIN}{table()}{END}{tail}"


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
