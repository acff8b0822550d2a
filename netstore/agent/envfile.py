"""Reads and writes the file subnet.env (`network.subnetenv`), which is replaced atomically, and keeps it as
it must be.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from netstore.inputfile import open_regular
from netstore.network.subnetenv import SubnetEnv, parse_subnet_env

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.agent.problems import ProblemLog

MAX_FILE_BYTES: Final = 64 * 1024

TOPIC: Final = "subnet_file"
"""The name in /status under which problems of the file are shown."""


class SubnetFile:
    """The subnet.env of this node. `text` is what it must say, empty until `put` was called and after
    `withdraw`. A `withdraw` that fails is tried again by `check`.

    Reading and writing a few bytes of a memory file system takes less time than handing it to a thread.
    """

    def __init__(self, path: Path, log: ProblemLog) -> None:
        self.text = ""
        self._must_withdraw = False
        """It could not be withdrawn."""
        self._path = path
        self._log = log

    def put(self, text: str) -> bool:
        """Write the file, which must say this from now on. False if that fails, which is logged."""
        try:
            write(self._path, text)
        except OSError as error:
            reason = error.strerror or str(error)
            self._log.report(TOPIC, "subnet_file_not_written", path=str(self._path), reason=reason)
            return False
        self.text, self._must_withdraw = text, False
        with contextlib.suppress(OSError):  # it is read only where the file is not there
            _withdrawn(self._path).unlink(missing_ok=True)
        return True

    def withdraw(self) -> bool:
        """Take the file away, so that no pod gets an address; `read` still finds what it said. False if that
        fails, which is logged.
        """
        self.text, self._must_withdraw = "", False
        try:
            self._path.replace(_withdrawn(self._path))
        except FileNotFoundError:
            return True
        except OSError as error:
            self._must_withdraw = True
            reason = error.strerror or str(error)
            self._log.report(TOPIC, "subnet_file_not_withdrawn", path=str(self._path), reason=reason)
            return False
        return True

    def remove(self) -> None:
        """Remove the file if it was written by this run, also if it is withdrawn."""
        if self.text or self._must_withdraw:
            self._path.unlink(missing_ok=True)
        _withdrawn(self._path).unlink(missing_ok=True)

    def problem(self) -> str | None:
        """Why the file is not as it must be, or None."""
        if self._must_withdraw:
            return f"{self._path} could not be withdrawn: no subnet is held"
        if not self.text:
            return f"{self._path} is not there: no subnet is held"
        try:
            found = _read(self._path)
        except FileNotFoundError:
            return f"{self._path} was removed"
        except OSError as error:
            return f"{self._path} cannot be read: {error.strerror or error}"
        return None if found == self.text.encode() else f"{self._path} was changed"

    def check(self) -> None:
        """Write the file again if it is not as it must be. Call it every few seconds. That is logged
        once, until it was right at a check: another program may write the same file again and again.
        """
        if self._must_withdraw and self.withdraw():
            self._log.resolve(TOPIC, "subnet_file_withdrawn", path=str(self._path))
        if not self.text:
            return
        reason = self.problem()
        if reason is None:
            self._log.resolve(TOPIC, "subnet_file_right", path=str(self._path))
        elif self.put(self.text):
            self._log.report(TOPIC, "subnet_file_written_again", reason=reason)


def write(path: Path, text: str) -> None:
    """Replace the file (mode 0644); creates its folder (0755) if there is none. OSError if that fails."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def read(path: Path) -> SubnetEnv:
    """What an earlier run wrote, and may have withdrawn."""
    for each in (path, _withdrawn(path)):
        with contextlib.suppress(OSError):
            return parse_subnet_env(_read(each).decode("utf-8", "replace"))
    return SubnetEnv()


def _withdrawn(path: Path) -> Path:
    return path.with_name(f"{path.name}.withdrawn")


def _read(path: Path) -> bytes:
    """The first `MAX_FILE_BYTES` of the file."""
    with open_regular(path) as file:
        return file.read(MAX_FILE_BYTES)
