"""Reads and writes the file subnet.env (`network.subnetenv`), which is replaced atomically, and keeps it as
it must be.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from netstore.errors import NetstoreError
from netstore.inputfile import NotRegular, open_regular
from netstore.network.subnetenv import SubnetEnv, parse_subnet_env
from netstore.outputfile import check_target, open_output

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.agent.problems import ProblemLog

MAX_FILE_BYTES: Final = 64 * 1024

TOPIC: Final = "subnet_file"
"""The name in /status under which problems of the file are shown."""


class SubnetFile:
    """The subnet.env of this node. `text` is what it must say, empty until `put` was called and after
    `withdraw`. A `withdraw` that fails is tried again by `check`. What is no regular file, as a link, is
    neither replaced nor taken away.

    Reading and writing a few bytes of a memory file system takes less time than handing it to a thread.
    """

    def __init__(self, path: Path, log: ProblemLog) -> None:
        self.text = ""
        self._must_withdraw = False
        """It could not be withdrawn."""
        self._unwritten = ""
        """Why it could not be written when that was last tried."""
        self._path = path
        self._log = log

    def put(self, text: str) -> bool:
        """Write the file, which must say this from now on. False if that fails, which is logged."""
        try:
            write(self._path, text)
        except OSError as error:
            self._unwritten = _reason(error)
            self._log.report(TOPIC, "subnet_file_not_written", path=str(self._path), reason=self._unwritten)
            return False
        self.text, self._must_withdraw, self._unwritten = text, False, ""
        with contextlib.suppress(OSError):  # it is read only where the file is not there
            _withdrawn(self._path).unlink(missing_ok=True)
        return True

    def withdraw(self) -> bool:
        """Take the file away, so that no pod gets an address; `read` still finds what it said. False if that
        fails, which is logged.
        """
        self.text, self._must_withdraw, self._unwritten = "", False, ""
        try:
            for each in (self._path, _withdrawn(self._path)):
                check_target(each)
            self._path.replace(_withdrawn(self._path))
        except FileNotFoundError:
            return True
        except OSError as error:
            self._must_withdraw = True
            self._log.report(TOPIC, "subnet_file_not_withdrawn", path=str(self._path), reason=_reason(error))
            return False
        return True

    def remove(self) -> None:
        """Remove the file if it was written by this run, also if it is withdrawn. NetstoreError if that
        fails.
        """
        try:
            for each in (self._path,) if self.text or self._must_withdraw else ():
                check_target(each)
                each.unlink(missing_ok=True)
            _withdrawn(self._path).unlink(missing_ok=True)
        except OSError as error:
            raise NetstoreError(f"{self._path}: {_reason(error)}") from None

    def problem(self) -> str | None:
        """Why the file is not as it must be, or None."""
        if self._must_withdraw:
            return f"{self._path} could not be withdrawn: no subnet is held"
        if not self.text:
            why = f"could not be written: {self._unwritten}" if self._unwritten else "is not there"
            return f"{self._path} {why}: no subnet is held"
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
    """Replace the file (mode 0644); creates its folder (0755) if there is none. OSError if that fails:
    NotRegular if something else has its name.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open_output(path, private=False) as output:
        os.fchmod(output.file.fileno(), 0o644)
        output.file.write(text.encode("ascii"))


def read(path: Path) -> SubnetEnv:
    """What an earlier run wrote, and may have withdrawn."""
    for each in (path, _withdrawn(path)):
        with contextlib.suppress(OSError):
            return parse_subnet_env(_read(each).decode("utf-8", "replace"))
    return SubnetEnv()


def _reason(error: OSError) -> str:
    """What is wrong with the file, and for what is no regular file the setting to correct."""
    reason = error.strerror or str(error)
    return f"{reason}; remove it, or correct subnet_file" if isinstance(error, NotRegular) else reason


def _withdrawn(path: Path) -> Path:
    return path.with_name(f"{path.name}.withdrawn")


def _read(path: Path) -> bytes:
    """The first `MAX_FILE_BYTES` of the file."""
    with open_regular(path) as file:
        return file.read(MAX_FILE_BYTES)
