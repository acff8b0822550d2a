"""Runs programs of the system for a moment: no shell, a clean environment, bounded time and output."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Final

import trio

from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT: Final = 10.0
"""Seconds a program may take. iptables waits for its lock for half of them (`agent.ruleset`)."""

KILL_SECONDS: Final = 1.0
"""How long a killed program is waited for."""

MAX_OUTPUT_BYTES: Final = 4 * 1024 * 1024

MAX_REASON: Final = 200
"""Characters of a program's own words that an error repeats."""

_ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C",
}


class ProgramError(NetstoreError):
    """A program failed; the text says which and why."""


class ProgramMissingError(ProgramError):
    """A program is not installed."""


async def run(words: Sequence[str], data: bytes = b"", *, package: str = "") -> bytes:
    """Run the program with `data` on its standard input; returns what it printed.

    ProgramError if it fails, takes longer than `TIMEOUT` or prints more than `MAX_OUTPUT_BYTES`;
    ProgramMissingError, which names the package, if it is not there. A cancelled call ends the program
    and what it has started.
    """
    name = words[0]
    # A file in memory, so that a program that does not read its input cannot block the agent.
    try:
        with os.fdopen(os.memfd_create(name), "r+b") as memory:
            memory.write(data)
            memory.seek(0)
            process = await trio.lowlevel.open_process(
                list(words),
                stdin=memory,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=_ENVIRONMENT,
                start_new_session=True,
            )
    except FileNotFoundError:
        raise ProgramMissingError(f"{name} is not installed; install the package {package or name}") from None
    except OSError as error:
        raise ProgramError(f"{name} cannot be started: {error.strerror}") from None
    output, told = bytearray(), bytearray()
    is_done = False
    with trio.move_on_after(TIMEOUT) as limit:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_read, process.stdout, output)
                nursery.start_soon(_read, process.stderr, told)
            await process.wait()
            is_done = True
        finally:
            if not is_done:  # so its number is not free yet, and names its group alone
                with contextlib.suppress(ProcessLookupError):  # it ended just now
                    os.killpg(process.pid, signal.SIGKILL)
                with trio.CancelScope(shield=True, deadline=trio.current_time() + KILL_SECONDS):
                    await process.wait()
    if limit.cancelled_caught:
        raise ProgramError(f"{name} was not done within {TIMEOUT:g} s")
    if len(output) > MAX_OUTPUT_BYTES:
        raise ProgramError(f"{name} printed more than {MAX_OUTPUT_BYTES} bytes")
    if process.returncode:
        raise ProgramError(f"{name} failed: {reason(told.decode(errors='replace'), process.returncode)}")
    return bytes(output)


async def _read(stream: trio.abc.ReceiveStream | None, into: bytearray) -> None:
    """Read to the end; what is beyond the bound is read and dropped, so that the program can end."""
    assert stream is not None  # noqa: S101 - the process was started with pipes
    async with stream:
        while piece := await stream.receive_some(65_536):
            if len(into) <= MAX_OUTPUT_BYTES:
                into += piece


def reason(told: str, code: int) -> str:
    """Why a program of netfilter failed, from what it wrote to standard error, with what to do if that is
    known.
    """
    lines = [line.strip() for line in told.splitlines()]
    first = next((line for line in lines if line and not line.startswith("#")), f"exit status {code}")
    text = "".join(each for each in first if each.isprintable())[:MAX_REASON]
    if "ermission denied" in text or "not permitted" in text:
        return f"{text}; the agent needs CAP_NET_ADMIN"
    if "not supported" in text:
        return f"{text}; the kernel may lack a module (nf_tables, nft_chain_nat, nft_masq)"
    return text
