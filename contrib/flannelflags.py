"""Write what netstore-agent does with each flag of flanneld into its manual page.

    python -m contrib.flannelflags

The text is between two comments of the page; `tests/tidy/test_flannelflags.py` compares it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from contrib import flagtable
from netstore.ops.agent import AGENT
from netstore.ops.flannel_flags import DIFFERENCES, FLAGS

PAGE: Final = Path(__file__).parents[1] / "man/netstore-agent.8"
BEGIN: Final = '.\\" flags of flanneld: written by python -m contrib.flannelflags\n'
END: Final = '.\\" end of the flags of flanneld\n'


def answer(flag: str) -> str:
    """What the agent does with a flag of flanneld. KeyError if that is not known."""
    return flagtable.answer(AGENT, flag, DIFFERENCES.get(flag, ""))


def filled(page: str) -> str:
    """The page with the list of now between its two comments. ValueError without them."""
    rows = ((flag, releases, answer(flag)) for flag, releases in FLAGS.items())
    return flagtable.filled(page, BEGIN, END, flagtable.table(rows))


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
