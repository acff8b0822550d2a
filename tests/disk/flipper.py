"""`python -m tests.disk.flipper FILE NOW BEFORE MASK`: damage a state one byte at a time and read it. NOW and
BEFORE are files with the content of the state and of what it was one commit earlier; the offsets of the bytes
come on standard input.

A line for each byte: its offset, and `same` (what is read is what was written), `before` (what was there one
commit earlier, all of it), `found` (StateDamaged that names the file) or `served` (something else was read,
or refused in another way). A byte whose damage ends this process has a line that ends after the offset.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from netstore.disk.tables import Tables
from netstore.errors import StateDamaged


def content(path: Path) -> str:
    """All records of a state, read in every way there is."""
    tables = Tables.read(path)
    try:
        tables.verify()
        shown = [str(tables.summary.applied)]
        with tables.env.begin() as txn:
            for name in sorted(tables.databases):
                pairs = list(tables.walk(txn, name, b"", None))
                shown.append(f"{name} {pairs!r}")
                if not name.startswith("long:"):
                    assert list(tables.get_many(name, [key for key, _ in pairs]).items()) == pairs
                    assert [tables.get(name, key) for key, _ in pairs] == [value for _, value in pairs]
        return "\n".join(shown)
    finally:
        tables.close()


def main() -> None:
    path = Path(sys.argv[1])
    now, before = (Path(name).read_text() for name in sys.argv[2:4])
    mask = int(sys.argv[4])
    file = os.open(path, os.O_RDWR)
    for at in map(int, sys.stdin.read().split()):
        sys.stdout.write(f"{at} ")
        sys.stdout.flush()
        true = os.pread(file, 1, at)
        os.pwrite(file, bytes((true[0] ^ mask,)), at)
        try:
            outcome = {now: "same", before: "before"}.get(content(path), "served")
        except StateDamaged as error:
            outcome = "found" if str(error).startswith(f"{path}: ") else f"served with {error}"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the refusal that was meant
            outcome = f"served {type(error).__name__}: {error}"
        os.pwrite(file, true, at)
        sys.stdout.write(f"{outcome}\n")


if __name__ == "__main__":
    main()
