"""Runs a command of the operator: by a shell, in a process group of its own, for a limited time and with
limited output.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping

READ_BYTES: Final = 64 * 1024

SHOWN_CHARACTERS: Final = 200
"""Of the output of a command that failed: its end."""


class Failed(Exception):  # noqa: N818 - says what the command did
    """The command failed; the text continues a sentence that begins with the command's name."""


async def run(
    command: str,
    environment: Mapping[str, str],
    stdin: bytes,
    seconds: float,
    limit: int,
) -> bytes:
    """What `sh -c COMMAND` printed, standard output and standard error together.

    Failed if it does not end well, does not end within `seconds`, or prints more than `limit` bytes;
    in the last two cases, and when this call is cancelled, its whole process group is killed. Processes that
    a command leaves behind on purpose live on.
    """
    output = _Output(limit)
    given = os.memfd_create("stdin")
    try:
        os.write(given, stdin)
        os.lseek(given, 0, os.SEEK_SET)
        process = await trio.lowlevel.open_process(
            ("/bin/sh", "-c", command),
            stdin=given,
            stdout=output.writing,
            stderr=output.writing,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        output.close()
        raise Failed(f"cannot be run: {error.strerror}") from None
    finally:
        os.close(given)
    try:
        output.close_writing()
        with trio.move_on_after(seconds) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(output.collect, nursery.cancel_scope)
                await process.wait()
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            raise Failed(f"did not end within {seconds:g} s and was killed{output.shown()}")
        output.drain()
    finally:
        await _end(process)
        output.close()
    if output.is_full:
        raise Failed(f"printed more than {limit} bytes")
    code = process.returncode
    if code is not None and code < 0:
        raise Failed(f"was ended by {signal.Signals(-code).name}{output.shown()}")
    if code:
        raise Failed(f"ended with {code}{output.shown()}")
    return bytes(output.kept)


async def _end(process: trio.Process) -> None:
    """Kill the process group if its first process did not end, and wait for that one."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # it ended just now
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await process.wait()


class _Output:
    """A pipe, and up to `limit` bytes of what came out of it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self.kept = bytearray()

    @property
    def is_full(self) -> bool:
        """Whether there was more than the limit."""
        return len(self.kept) > self._limit

    async def collect(self, scope: trio.CancelScope) -> None:
        """Read until the end of the output; at more than the limit, cancel the scope."""
        while True:
            await trio.lowlevel.wait_readable(self._reading)
            if not self._read():
                return
            if self.is_full:
                scope.cancel()

    def drain(self) -> None:
        """Read what is there."""
        with contextlib.suppress(BlockingIOError):  # processes that were left behind may still print
            while not self.is_full and self._read():
                pass

    def _read(self) -> int:
        data = os.read(self._reading, READ_BYTES)
        self.kept += data
        return len(data)

    def shown(self) -> str:
        """The end of the output on one line, after a colon; empty if there is none."""
        text = " ".join(self.kept.decode("utf-8", "replace").split())[-SHOWN_CHARACTERS:]
        return f": {text}" if text.isprintable() and text else ""

    def close_writing(self) -> None:
        os.close(self.writing)
        self.writing = -1

    def close(self) -> None:
        os.close(self._reading)
        if self.writing >= 0:
            os.close(self.writing)
