"""Calls made in another network namespace."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def inside(netns: str, call: Callable[[], T]) -> T:
    """Run the call in a network namespace, in a thread of its own; sockets it makes belong there."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with Path("/run/netns", netns).open("rb") as space:
                if _libc.setns(space.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")  # noqa: TRY301 - told by the except below
            answers.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=enter, name=f"in {netns}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]
