"""Write what netstored does with each flag of etcd into its manual page.

    python -m contrib.etcdflags

The text is between two comments of the page; `tests/tidy/test_etcdflags.py` compares it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from contrib import flagtable
from netstore.ops.etcd_flags import FLAGS
from netstore.ops.store import STORE

PAGE: Final = Path(__file__).parents[1] / "man/netstored.8"
BEGIN: Final = '.\\" flags of etcd: written by python -m contrib.etcdflags\n'
END: Final = '.\\" end of the flags of etcd\n'


def answer(flag: str) -> str:
    """What netstored does with a flag of etcd. KeyError if that is not known."""
    return flagtable.answer(STORE, flag, FLAGS[flag].difference)


def filled(page: str) -> str:
    """The page with the list of now between its two comments. ValueError without them."""
    rows = ((flag, each.releases, answer(flag)) for flag, each in FLAGS.items())
    return flagtable.filled(page, BEGIN, END, flagtable.table(rows))


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
