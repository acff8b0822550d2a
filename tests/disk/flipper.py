"""`python -m tests.disk.flipper FILE EXPECTED FROM STEP MASK`: damage a state one byte at a time and read it.

A line for each byte: its offset, and `same` (what is read is what was written), `found` (StateDamaged) or
`served` (something else was read, or refused in another way). A byte whose damage ends this process has a
line that ends after the offset.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from netstore.disk.tables import Tables
from netstore.errors import StateDamaged


def content(path: Path) -> str:
    """Everything a state holds, as it is read in all ways there are."""
    tables = Tables.read(path)
    try:
        tables.verify()
        shown = [str(tables.summary.applied)]
        with tables.env.begin() as txn:
            for name in sorted(tables.names):
                pairs = list(tables.walk(txn, name, b"", None))
                shown.append(f"{name} {pairs!r}")
                if not name.startswith("long:"):
                    assert list(tables.get_many(name, [key for key, _ in pairs]).items()) == pairs
                    assert [tables.get(name, key) for key, _ in pairs] == [value for _, value in pairs]
        return "\n".join(shown)
    finally:
        tables.close()


def main() -> None:
    path, expected = Path(sys.argv[1]), Path(sys.argv[2]).read_text()
    start, step, mask = map(int, sys.argv[3:])
    file = os.open(path, os.O_RDWR)
    for at in range(start, path.stat().st_size, step):
        sys.stdout.write(f"{at} ")
        sys.stdout.flush()
        true = os.pread(file, 1, at)
        os.pwrite(file, bytes((true[0] ^ mask,)), at)
        try:
            outcome = "same" if content(path) == expected else "served"
        except StateDamaged:
            outcome = "found"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is not the refusal that was meant
            outcome = f"served {type(error).__name__}: {error}"
        os.pwrite(file, true, at)
        sys.stdout.write(f"{outcome}\n")


if __name__ == "__main__":
    main()
