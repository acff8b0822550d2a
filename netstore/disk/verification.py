"""Verifies a state file in a process of its own, because LMDB trusts its pages: reading damaged ones may end
the process (SIGSEGV, SIGBUS), and a member that reads them at its start would end at each start.

`python -m netstore.disk.verification FILE` is that process: it reads everything and reports what it found;
with the name of a table it prints the records of that table, one a line. It takes 2 us for each record, and a
tenth of a second to start. A member runs it before it uses a file that may be damaged: a received snapshot,
and the state at a start after an unclean shutdown (`OpenMarker`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from netstore.disk.lmdbfile import damaged, extend_to_length, missing_bytes
from netstore.disk.summary import EMPTY_SUMMARY, Summary
from netstore.disk.tables import Tables, read_summary
from netstore.errors import CorruptData, NetstoreError, StateDamaged
from netstore.outputfile import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.types import Index

_EXIT_DAMAGED: Final = 3
"""Exit code of the process when the state is damaged; what is wrong is on its standard error."""

_EXIT_REFUSED: Final = 4
"""Exit code when the state cannot be read for another reason."""


class NotVerified(NetstoreError):  # noqa: N818 - named for what is so
    """It is not known whether a state is damaged: the process could not be run, for want of a process, memory
    or descriptor. It may be tried again.
    """


def verify(path: Path) -> None:
    """Read all of a state file that nobody writes. Blocks, without the GIL.

    StateDamaged when something is not what was written, or cannot be read; NetstoreError when it is of a
    later version; NotVerified when the process could not do its work.
    """
    try:
        done = _run(path)
    except (OSError, MemoryError) as error:
        raise NotVerified(f"{path}: not verified: no process could be started ({error})") from error
    message = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    if done.returncode == _EXIT_DAMAGED:
        raise StateDamaged(message)
    if done.returncode == _EXIT_REFUSED:
        raise NetstoreError(message)
    if done.returncode in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT):
        name = signal.Signals(-done.returncode).name
        what = f"its pages are damaged: reading them ended a process with {name}"
        missing = missing_bytes(path)
        raise damaged(path, f"cut short: the last {missing} bytes are gone" if missing else what)
    if done.returncode:
        raise NotVerified(
            f"{path}: not verified: its process ended with {done.returncode} ({message or 'no word'})"
        )


class OpenMarker:
    """A file beside the state that exists while a member has the state open. One that is found at a start
    means an unclean shutdown.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._path = state.with_name(f"{state.name}-open")

    def check(
        self,
        unverified: Callable[[str], object] | None = None,
        verifying: Callable[[int], object] | None = None,
    ) -> None:
        """Verify the state after an unclean shutdown, or if the file is too short. Blocks. See `verify`.

        `verifying` is called with the size of the file before it is read. `unverified` is called with the
        reason if it could not be verified: the member may start, because every read verifies its records and
        the scrubber goes through the others. NotVerified if such a file is too short as well: it must not be
        opened.
        """
        missing = missing_bytes(self._state)
        found = self._path.exists()
        if (found or missing) and self._state.exists() and self._state.stat().st_size:
            if verifying is not None:
                verifying(self._state.stat().st_size)
            try:
                verify(self._state)
            except NotVerified as error:
                if missing:
                    raise
                if unverified is not None:
                    unverified(str(error))
        if missing:
            # Everything could be read, so the missing pages are unused.
            extend_to_length(self._state)
        if found:
            self._path.unlink()

    def set(self) -> None:
        """Before the state is opened."""
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_folder(self._path.parent)

    def clear(self) -> None:
        """After the state was closed, and no damage was found in it."""
        self._path.unlink(missing_ok=True)


def summary_of_state(
    path: Path,
    unverified: Callable[[str], object] | None = None,
    verifying: Callable[[int], object] | None = None,
) -> Summary:
    """The summary of a state that is about to be opened, after it was verified if necessary. Blocks. See
    `OpenMarker.check`.
    """
    OpenMarker(path).check(unverified, verifying)
    return read_summary(path) if path.exists() else EMPTY_SUMMARY


def verified_index(path: Path) -> Index:
    """Verify a complete snapshot; its applied index. Blocks. See `verify`."""
    verify(path)
    return read_summary(path).applied


def readable_records(path: Path, table: str) -> list[bytes]:
    """The records of a small table of a damaged state, as far as they can still be read. Blocks."""
    # The last line is left out: a process that was ended by damage may have written half of it.
    return [bytes.fromhex(line.decode()) for line in _run(path, table).stdout.split(b"\n")[:-1]]


def _run(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", __spec__.name, *map(str, words)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(  # noqa: S603 - this interpreter and module, on a file of the member's own
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )


def main(arguments: Sequence[str]) -> int:
    """The process: the exit code."""
    path = Path(arguments[0])
    try:
        tables = Tables.read(path, allow_short=True)
        if len(arguments) > 1:
            _print_records(tables, arguments[1])
        else:
            tables.verify()
    except CorruptData as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_DAMAGED
    except NetstoreError as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_REFUSED
    return 0


def _print_records(tables: Tables, table: str) -> None:
    with tables.env.begin() as txn:
        for _, value in tables.walk(txn, table, b"", None):
            sys.stdout.write(f"{value.hex()}\n")
            sys.stdout.flush()  # reading the next one may end this process


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
