"""Asks the agent of this node over its local socket (`agent.localsocket`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import trio

from netstore.agent.localsocket import Routes
from netstore.errors import NetstoreError, parse_problem

if TYPE_CHECKING:
    from pathlib import Path

ANSWER_SECONDS: Final = 10.0
MAX_BYTES: Final = 64 * 1024 * 1024
"""A hundred thousand routes are a tenth of it."""


class NoAgent(NetstoreError):  # noqa: N818 - named for what was found
    """Nobody answers there, or it is not an agent; the text says what happened."""


async def wanted_routes(path: Path) -> Routes:
    """What the agent says of its routes. `NoAgent` if it does not."""
    body = await _get(path, "/routes")
    try:
        return msgspec.json.decode(body, type=Routes)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NoAgent(f"{path} sent what is not an agent's answer: {parse_problem(error)}") from None


async def _get(path: Path, target: str) -> bytes:
    """The body of an answer."""
    answer = bytearray()
    with trio.move_on_after(ANSWER_SECONDS) as limit:
        try:
            async with await trio.open_unix_socket(str(path)) as stream:
                await stream.send_all(f"GET {target} HTTP/1.1\r\nHost: agent\r\n\r\n".encode())
                async for piece in stream:
                    answer += piece
                    if len(answer) > MAX_BYTES:
                        raise NoAgent(f"{path} sent more than {MAX_BYTES} bytes")
        except OSError as error:
            raise NoAgent(f"{path}: {error.strerror or error}") from None
        except trio.BrokenResourceError:
            raise NoAgent(f"{path}: it closed the connection") from None
    if limit.cancelled_caught:
        raise NoAgent(f"{path}: no answer within {ANSWER_SECONDS:g} s")
    head, end, body = bytes(answer).partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    if not end or status != [b"200"]:
        told = head.partition(b"\r\n")[0][:80].decode("ascii", "replace")
        raise NoAgent(f"{path} answered {told!r}, not as an agent of this release does")
    return body
