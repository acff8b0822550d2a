"""Points in the history of the v3 keys, as they are given on the command line: a revision, or an instant."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

import click

from netstore.cli.commands.failures import Exit, Failure, refused
from netstore.cli.commands.invocation import warn
from netstore.cli.commands.v3calls import v3_client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from netstore.cli.commands.invocation import Settings
    from netstore.client.keyspace import KeySpace
    from netstore.client.origins import Origin, OriginsClient

    T = TypeVar("T")

MAX_REVISION: Final = 2**63 - 1

_AGO: Final = re.compile(r"(\d{1,9})(s|m|h|d)")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_REVISION: Final = re.compile(r"\d{1,19}")


@dataclass(frozen=True, slots=True)
class Point:
    """A revision, or an instant in nanoseconds since 1970; the word that it was given as."""

    word: str
    revision: int = 0
    instant: int = 0


def instant(word: str) -> Point:
    """Parse an instant: RFC 3339 with its zone, or a time ago, such as 15m."""
    ago = _AGO.fullmatch(word)
    if ago:
        return Point(word, instant=time.time_ns() - int(ago[1]) * _SECONDS[ago[2]] * 10**9)
    try:
        moment = datetime.fromisoformat(word)
    except ValueError:
        raise click.BadParameter(
            f"{word!r} is no time; write one as 2026-11-30T14:05:00Z, or how long ago, as 15m or 2h or 3d"
        ) from None
    if moment.tzinfo is None:
        raise click.BadParameter(f"{word!r} has no time zone; add Z for UTC, or an offset such as +02:00")
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return Point(word, instant=since // timedelta(microseconds=1) * 1000)


def point(word: str) -> Point:
    """Parse a revision or an instant."""
    if _REVISION.fullmatch(word):
        return Point(word, revision=revision(word))
    return instant(word)


def revision(word: str | int) -> int:
    """Parse a revision."""
    if not _REVISION.fullmatch(str(word)) or not 0 < int(word) <= MAX_REVISION:
        raise click.BadParameter(f"{word!r} is no revision, a whole number above 0")
    return int(word)


def shown_instant(wall: int, *, up: bool = False) -> str | None:
    """Nanoseconds since 1970 as UTC to the millisecond; None for 0, or one out of range. `up`: not before it,
    so that the state at this time has what was written then, and perhaps later in that millisecond.
    """
    if not wall:
        return None
    milliseconds = -(-wall // 10**6) if up else wall // 10**6
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Store:
    """The v3 keys of a store, and, where it keeps them, the times and authors of their revisions."""

    def __init__(self, keys: KeySpace, origins: OriginsClient) -> None:
        self.keys = keys
        self._origins = origins

    async def resolve(self, at: Point) -> int:
        """The revision at a point. `Failure` if it is an instant whose revision is not known."""
        from netstore.client.origins import NotKept, NotKnown  # noqa: PLC0415 - see Settings.run

        if at.revision:
            return at.revision
        try:
            found, is_sure = await self._origins.at(at.instant)
        except NotKept as error:
            raise refused(f"{at.word}: {error}; give a revision instead") from None
        except NotKnown as error:
            text = f"{at.word}: {error}; give a revision, or go back with an archive"
            raise Failure(Exit.NOT_FOUND, text) from None
        if not is_sure:
            warn(f"{at.word}: taken as revision {found}; when the ones after it were written is not known")
        return found

    async def origins(self, revisions: Iterable[int]) -> dict[int, Origin]:
        """Times and authors of these revisions, as far as they are known."""
        from netstore.client.origins import NotKept  # noqa: PLC0415 - see Settings.run

        try:
            return await self._origins.of(revisions)
        except NotKept:
            return {}


def ask_keys(settings: Settings, action: Callable[[Store], Awaitable[T]]) -> T:
    """Run `action` with the store. A revision that cannot be read becomes a `Failure`."""

    async def conversation() -> T:
        from netstore.client.keyspace import KeySpace  # noqa: PLC0415 - see Settings.run
        from netstore.client.origins import OriginsClient  # noqa: PLC0415 - same

        async with settings.client() as client, v3_client(settings) as keys:
            return await action(Store(KeySpace(keys), OriginsClient(client.transport)))

    from netstore.client.keyspace import Compacted, Later  # noqa: PLC0415 - see Settings.run

    try:
        return settings.run(conversation)
    except Compacted as error:
        raise Failure(Exit.NOT_FOUND, f"{error}; an archive goes back further") from None
    except Later as error:
        raise Failure(Exit.NOT_FOUND, str(error)) from None
