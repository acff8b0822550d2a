"""How a command ends: its exit statuses, and what a failed call to the store means for the command."""

from __future__ import annotations

import enum
import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn

import click

from netstore.errors import NetstoreError
from netstore.inputfile import NotRegular, UnusableFile, read_input, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from netstore.client.faults import ClientError
    from netstore.client.grpc import Status
    from netstore.client.v2 import V2Error

MAY_HAVE_HAPPENED: Final = (
    "outcome unknown: the change may have happened or may still happen; look before you repeat it"
)
NOT_TEXT: Final = "{}: not UTF-8; the v2 API carries text only, so encode it, for example in base64"


OF_USERS: Final = (
    ("user name is empty", "give --username"),
    ("user not found", "give --username of somebody whom the store knows"),
    ("invalid user ID or password", "check the name of --username and its password"),
    ("invalid auth token", "give --username"),
    ("permission denied", "give --username of somebody who may"),
)
"""Part of an etcd's refusal -> what to do about it. Some come with the code UNKNOWN."""


NAME_A_FILE: Final = "name a regular file"

_SYSTEM_FIXES: Final = {
    errno.EACCES: "run this as a user who may, or have its owner permit it",
    errno.EPERM: "run this as a user who may, or have its owner permit it",
    errno.EEXIST: "name a new one",
    errno.ENOENT: "name one that is there, or a new one in a folder that is",
    errno.ENOTDIR: "name one whose parents are folders",
    errno.EISDIR: NAME_A_FILE,
    errno.EAGAIN: "wait, or name another file",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.EROFS: "name one on a disk that can be written",
    errno.ENOSPC: "free disk space, or name one on another disk",
    errno.EDQUOT: "free disk space, or name one on another disk",
    errno.EIO: "the disk fails: look at the log of the kernel, and use another",
}
"""Numbers of system errors of files -> what to do."""


class Exit(enum.IntEnum):
    """How netstorectl ends; the numbers are part of its contract (netstorectl(1), EXIT STATUS)."""

    OK = 0
    REFUSED = 1
    """Validation or a precondition said no, or a file could not be read or written; nothing was changed."""
    USAGE = 2
    """The command line is wrong; no request was sent."""
    NOT_FOUND = 3
    UNAVAILABLE = 4
    """No store answered, or the answer is not that of a store; nothing was changed."""
    UNKNOWN = 5
    """A write was sent without a usable answer: it may have happened, or may still happen."""
    INTERNAL = 70
    """A defect of netstorectl."""
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class Failure(Exception):  # noqa: N818 - named for how a command ends
    """The command cannot do what was asked. `text` is one line: what is wrong, and the fix."""

    def __init__(self, status: Exit, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def refused(text: str) -> Failure:
    """Validation or a precondition said no; nothing was changed."""
    return Failure(Exit.REFUSED, text)


@contextmanager
def in_words(path: Path | None) -> Iterator[None]:
    """What is wrong with a file or folder, as a `Failure`. `path` is the one that is meant where an error
    names none.
    """
    from netstore.client.faults import ClientError  # noqa: PLC0415 - see `Settings.run`

    try:
        yield
    except ClientError:
        raise  # becomes a failure where the calls are made
    except NetstoreError as error:
        raise refused(str(error)) from None
    except OSError as error:
        raise refused(system_problem(error, path)) from None


def system_problem(error: OSError, path: Path | str | None = None) -> str:
    """What the system refused, with the fix. `path` is the file or folder that is meant where the error names
    none.
    """
    told = f"{shortened(str(error.filename or path))}: {error.strerror or error}"
    fix = NAME_A_FILE if isinstance(error, NotRegular) else _SYSTEM_FIXES.get(error.errno or 0)
    return told if fix is None else f"{told}; {fix}"


def content_of(path: str, most: int, fix: str) -> bytes:
    """All of a file that is given to a command, or of a pipe, as `<(command)` gives one; at most `most`
    bytes. `Failure` if it cannot be used; `fix` says what to give instead.
    """
    try:
        return read_input(path, most, fix, stream=True)
    except UnusableFile as error:
        raise refused(str(error)) from None


def check_apart(sources: Iterable[Path | None], targets: Iterable[Path | None]) -> None:
    """Failure if one of these targets is a file that is read, or lies in a folder that is: writing it would
    change the data, or end it. Links are followed. A target that is the folder itself is for who fills it to
    refuse, because it is not empty.
    """
    places = [each.resolve() for each in sources if each is not None]
    for target in targets:
        if target is None:
            continue
        found = target.resolve()
        if any(place in found.parents or (place == found and place.is_file()) for place in places):
            raise refused(f"{target}: is in what is read, which stays as it is: name a place outside of it")


def failure_of(error: ClientError, *, named: bool = False) -> Failure:
    """The failure of the command for a failed call: exit status, and one line with the fix. `named`: the line
    is shown beside its endpoint, and does not name it.
    """
    from netstore.client.faults import BadAnswer, Unreachable  # noqa: PLC0415 - loaded by whoever raised it
    from netstore.client.grpc import Status  # noqa: PLC0415 - same
    from netstore.client.v2 import V2Error  # noqa: PLC0415 - same

    tried = error.tried if isinstance(error, Unreachable) else []
    reason = "; ".join(why if named else f"{endpoint}: {why}" for endpoint, why in tried) or str(error)
    if named and isinstance(error, BadAnswer):
        reason = error.problem
    if not error.outcome_known:
        return Failure(Exit.UNKNOWN, f"{MAY_HAVE_HAPPENED} ({reason})")
    if isinstance(error, V2Error):
        return _refusal(error)
    if isinstance(error, Status):
        return _refused_call(error)
    if isinstance(error, BadAnswer):
        is_v2_off = error.status == 404
        fix = error.fix or (
            "is the v2 API on there (etcd: --enable-v2)?" if is_v2_off else "check --endpoints"
        )
        return Failure(Exit.UNAVAILABLE, f"{reason}; {fix}")
    if not isinstance(error, Unreachable):
        return refused(with_fix(reason, OF_USERS))
    if any(endpoint.startswith("https:") for endpoint, _ in tried):
        fix = "check --endpoints, --ca-file, --cert-file and that the store runs there"
    else:
        fix = "check --endpoints and that the store runs there"
    return Failure(Exit.UNAVAILABLE, f"no endpoint answered ({reason}); {fix}")


def _refused_call(error: Status) -> Failure:
    """A refusal of the v3 API."""
    from netstore.client import grpc  # noqa: PLC0415 - loaded by whoever raised it

    if error.code == grpc.UNAUTHENTICATED or "user name is empty" in error.message:
        return refused(f"the store wants to know who asks ({error}); give --username")
    if error.code == grpc.PERMISSION_DENIED:
        return refused(f"the store does not allow it ({error}); give --username of somebody who may")
    told = with_fix(str(error), OF_USERS)
    if told != str(error):
        return refused(told)
    if error.code in (grpc.UNAVAILABLE, grpc.DEADLINE_EXCEEDED, grpc.CANCELLED, grpc.UNKNOWN):
        return Failure(Exit.UNAVAILABLE, f"the store could not answer: {error}")
    if error.code == grpc.UNIMPLEMENTED:
        return Failure(Exit.UNAVAILABLE, f"{error.endpoint} does not have the v3 API ({error}); check it")
    return refused(str(error))


def with_fix(text: str, fixes: Iterable[tuple[str, str]]) -> str:
    """A refusal, and what to do about it, if that is known."""
    fix = next((fix for part, fix in fixes if part in text), "")
    return f"{text}; {fix}" if fix else text


def _refusal(error: V2Error) -> Failure:
    cause = error.cause
    match error.code:
        case 100:
            return Failure(Exit.NOT_FOUND, f"{cause}: not found")
        case 101:
            return refused(f"compare failed {cause}: the key was changed meanwhile; read it again")
        case 102:
            return refused(f"{cause or '/'}: is a directory, and this needs a file")
        case 104:
            return refused(f"{cause}: is a file, so nothing can be below it")
        case 105:
            return refused(f"{cause}: exists already")
        case 107:
            return refused("/: the root cannot be changed")
        case 108:
            return refused(f"{cause}: the directory is not empty; key rm --recursive takes all of it")
        case 110:
            return refused(
                "the store wants to know who asks, or this user may not do it; give --username of somebody"
                " who may, with the right password"
            )
        case 300:
            return Failure(Exit.UNAVAILABLE, f"the store could not answer: {cause}")
        case 401:
            return refused(
                f"the events asked for are gone from the store's memory: {cause}; read the keys again"
            )
        case _:
            return refused(str(error))


def usage(text: str) -> NoReturn:
    """End with a usage error of the running command."""
    raise click.UsageError(text, click.get_current_context())
