"""Verify a state in a process of its own, because what rotted in LMDB's pages may end the process that reads
them (SIGSEGV, SIGBUS), and a member that ends so would end so again.

`python -m netstore.disk.apart FILE` is that process: it reads everything and says what it found; with the
name of a table it shows the records of that, one a line. It takes
2 us for each record, and a tenth of a second to start. A member asks for it where a file is not known to be
whole: before a received copy takes the place of the state, and at a start after an end that was not
orderly (`Marker`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from netstore.disk.datadir import sync_folder
from netstore.disk.tables import NEW, Summary, Tables, damaged, shortage, summary_in
from netstore.errors import CorruptData, NetstoreError, StateDamaged

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from netstore.types import Index

_FOUND: Final = 3
"""Exit code of the process when the state is damaged; what is wrong is on its standard error."""

_REFUSED: Final = 4
"""The same when it cannot be read for another reason."""


class NotVerified(NetstoreError):  # noqa: N818 - named for what is so
    """Nothing is known of a state: no process, memory or descriptor was left to look at it. It may be tried
    again.
    """


def verify(path: Path) -> None:
    """Read all of a state that nobody writes. Blocks; the interpreter is free meanwhile.

    StateDamaged when something is not what was written, or cannot be read; NetstoreError when it is of a
    later version; NotVerified when the process could not do its work.
    """
    try:
        done = _run(path)
    except (OSError, MemoryError) as error:
        raise NotVerified(f"{path}: not verified: no process could be started ({error})") from error
    said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    if done.returncode == _FOUND:
        raise StateDamaged(said)
    if done.returncode == _REFUSED:
        raise NetstoreError(said)
    if done.returncode in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGABRT):
        name = signal.Signals(-done.returncode).name
        what = f"its pages are damaged: reading them ended a process with {name}"
        missing = shortage(path)
        raise damaged(path, f"cut short: the last {missing} bytes are gone" if missing else what)
    if done.returncode:
        raise NotVerified(
            f"{path}: not verified: its process ended with {done.returncode} ({said or 'no word'})"
        )


class Marker:
    """A file beside the state that is there while a member has it open: found at a start, it tells that the
    last end was not orderly.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._path = state.with_name(f"{state.name}-open")

    def check(
        self,
        unverified: Callable[[str], object] | None = None,
        verifying: Callable[[int], object] | None = None,
    ) -> None:
        """Verify the state if it is not known to be whole. Blocks. See `verify`.

        `unverified` is told why it could not be: the member may start, because reads verify what they read,
        and the scrubber goes through the rest. What cannot be verified and is shorter than it says is not
        opened: NotVerified. `verifying` is told the size of what is about to be read.
        """
        missing = shortage(self._state)
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
            # What is gone was never part of the state: pages that a transaction took and gave back.
            os.truncate(self._state, self._state.stat().st_size + missing)
        if found:
            self._path.unlink()

    def arrive(self) -> None:
        """The state is about to be opened."""
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        sync_folder(self._path.parent)

    def leave(self) -> None:
        """The state was closed in an orderly way."""
        self._path.unlink(missing_ok=True)


def examined(
    path: Path,
    unverified: Callable[[str], object] | None = None,
    verifying: Callable[[int], object] | None = None,
) -> Summary:
    """What the last commit said of a state that is about to be opened, verified if it is not known to be
    whole. Blocks. See `Marker.check`.
    """
    Marker(path).check(unverified, verifying)
    return summary_in(path) if path.exists() else NEW


def verified(path: Path) -> Index:
    """What a finished copy has applied, every record of which was verified. Blocks. See `verify`."""
    verify(path)
    return summary_in(path).applied


def records(path: Path, table: str) -> list[bytes]:
    """The records of a small table as far as they can still be read, of a state that is damaged. Blocks.

    A process that damage ended may have written half of its last line, which is left out.
    """
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
        tables = Tables.read(path, short=True)
        if len(arguments) > 1:
            _show(tables, arguments[1])
        else:
            tables.verify()
    except CorruptData as error:
        sys.stderr.write(f"{error}\n")
        return _FOUND
    except NetstoreError as error:
        sys.stderr.write(f"{error}\n")
        return _REFUSED
    return 0


def _show(tables: Tables, table: str) -> None:
    with tables.env.begin() as txn:
        for _, value in tables.walk(txn, table, b"", None):
            sys.stdout.write(f"{value.hex()}\n")
            sys.stdout.flush()  # the next one may end this process


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
