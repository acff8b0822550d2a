"""What the mirrors of both APIs share: their steps, the checkpoint that makes them resumable, the proof that
a source is still the store that was copied, and repeated calls.

A store that was put back to an earlier state, or lost its disk and was begun anew with the same flags, has
the ids that it had, and may have passed the revision, or v2 index, of the checkpoint. So the checkpoint has a
witness: the last change that was copied. A source that shows the same change has the same history up to it.
Where the source does not have that change any more, because it was compacted or forgotten, its keys are held
against the target: each that was not changed since the checkpoint must be there as it is, and one such key at
least.

A proof holds for the answers that came over the connections there were, and each write into the target takes
one: so nothing is written, or deleted, that a source said which was put in the place of the first one.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, NamedTuple, TypeVar

import msgspec
import trio

from netstore.client.faults import BadAnswer, ClientError, Unreachable
from netstore.client.grpc import DEADLINE_EXCEEDED, UNAVAILABLE, Status
from netstore.client.v2 import RAFT_ERROR, WATCHER_CLEARED, V2Error
from netstore.errors import NetstoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    T = TypeVar("T")

RETRY_DELAYS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds to wait after the first, second, ... failure in a row; the last one repeats."""


MOST_UNPROVEN: Final = 2
"""Comparisons because the source could not show the last change, until that is told."""


class NotMirrored(NetstoreError):  # noqa: N818 - named for what did not happen
    """The target cannot be a mirror of the source; the text says why, and what to do."""


class Another(NotMirrored):
    """The source is not the store that was copied, or cannot be shown to be, though its ids are the same."""

    def __init__(self, found: str, *, is_certain: bool = True) -> None:
        """`found` says by what that is told."""
        super().__init__(found)
        self.found = found
        self.is_certain = is_certain

    def __str__(self) -> str:
        if not self.is_certain:
            return (
                f"{self.found}: it cannot be shown that SOURCE is the store that was copied, and was not put"
                " back or begun anew; if you know that it is, or TARGET is to become equal to it, run"
                " it again with --overwrite"
            )
        return (
            f"{self.found}: SOURCE is not the store that was copied, though its ids are the same; it was put"
            " back to an earlier state, or was begun anew with the same flags, and keys that only TARGET has"
            " would be deleted; run it again with --overwrite to make TARGET equal to it all the same"
        )


class Reconnected(ClientError):  # noqa: N818 - named for what happened
    """What was read may be of another store than the one that was proven: it is to be proven again."""

    def __str__(self) -> str:
        return (
            "the connection to SOURCE was made anew, so it has to show again that it is the same store (if"
            " that does not end, something in between closes connections: name the members themselves)"
        )


class Proof:
    """That the source is the store that was copied: for all that it has answered while it holds."""

    def __init__(self, breaks: Callable[[], int]) -> None:
        """`breaks` counts the connections, or those of them that may lead to another store. It is to be made
        before the answer that proves.
        """
        self._breaks = breaks
        self._number = breaks()

    @property
    def holds(self) -> bool:
        """Whether no answer came over another connection."""
        return self._breaks() == self._number

    def check(self) -> None:
        """Reconnected if it does not hold. To be called before what the source said is written."""
        if not self.holds:
            raise Reconnected


Bytes = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2})*\Z")]
"""Hexadecimal."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What a revision, a v2 index or a version may be."""


class Witness(msgspec.Struct, frozen=True):
    """The last change of a key that was copied."""

    key: Bytes
    """The key in the source."""
    revision: Count
    """The revision, or v2 index, of the change."""
    created: Count
    """When the key was created; if the change removed it, then the key that was there before."""
    version: Count = 0
    """The version of that key; 0 in v2, which has none."""
    digest: str = ""
    """Of the value; empty if the change removed the key."""


class Checkpoint(msgspec.Struct, frozen=True):
    """The value of the checkpoint, in JSON."""

    source: str
    """Id of the source's cluster, hexadecimal."""
    keys: Bytes
    """The prefix of the keys, or the path of the v2 folder."""
    revision: Count
    """The revision, or v2 index, up to which the target has everything; 0 while the first copy is not
    complete.
    """
    writer: str
    sequence: Count
    """Which run has written it, and the number of the write in that run."""
    timed: bool = False
    """Whether v2 nodes with a TTL are there: their refreshes are no events, so a later run compares."""
    witness: Witness | None = None
    """None if no change is known, as of a range without keys; and from a netstorectl that wrote none."""


class Told(NamedTuple):
    """What a mirror has done so far."""

    revision: int
    written: int
    deleted: int


def parse_checkpoint(value: bytes, key: str, source: str, keys: bytes) -> Checkpoint:
    """The checkpoint that was found in the target at `key`, of a mirror of these keys of this cluster.
    NotMirrored if it is something else.
    """
    try:
        found = msgspec.json.decode(value, type=Checkpoint)
        if found.witness is not None and not found.witness.key.startswith(found.keys):
            raise msgspec.ValidationError("the witness is not one of the keys")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise NotMirrored(
            f"checkpoint {key}: TARGET has something else in that key, or one that is damaged: name another"
            " one by --checkpoint, or delete this one"
        ) from None
    if (found.source, found.keys) != (source, keys.hex()):
        raise NotMirrored(
            f"checkpoint {key}: TARGET is a mirror of cluster {found.source}, prefix"
            f" {shown(bytes.fromhex(found.keys))}: name another key by --checkpoint, or delete this one"
        )
    return found


def digest(value: bytes) -> str:
    """What `Witness.digest` is of a value."""
    return sha256(value).hexdigest()[:32]


def shown(key: bytes) -> str:
    """A key for a message."""
    return repr(key[:64].decode(errors="replace"))


def went_back(what: str, before: int, now: int) -> NotMirrored:
    """The refusal of a source whose revision, or v2 index, is lower than it was: keys that it has lost would
    be deleted in the target, which may have the last copy of them.
    """
    return NotMirrored(
        f"SOURCE went back from {what} {before} to {now}: it was put back to an earlier state, or was begun"
        " anew with the same flags, and keys that it has lost would be deleted in TARGET; run it again with"
        " --overwrite to let TARGET go back too"
    )


def unlike(key: str, what: str, changed: int, copied: int) -> Another:
    """The target has not what was copied."""
    return Another(
        f"the key {key} of SOURCE is of {what} {changed}, all was copied up to {copied}, and TARGET does not"
        " have it so, as if something else had written it there",
        is_certain=False,
    )


def no_proof(what: str, copied: int) -> Another:
    """No key of the source is as old as the checkpoint."""
    return Another(
        f"SOURCE does not have the changes before {what} {copied} any more, up to which all was copied, and"
        " no key of it is as old",
        is_certain=False,
    )


async def together(works: Sequence[Callable[[], Awaitable[None]]]) -> None:
    """Do all of it at the same time, until one fails. What it raises comes out as it is."""
    faults: list[BaseException] = []
    async with trio.open_nursery() as nursery:

        async def one(work: Callable[[], Awaitable[None]]) -> None:
            try:
                await work()
            except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - it is raised below
                faults.append(error)
                nursery.cancel_scope.cancel()

        for work in works[1:]:
            nursery.start_soon(one, work)
        await one(works[0])
    if faults:
        raise faults[0]


class Patience:
    """Repeats calls while a store cannot be reached."""

    def __init__(self, trouble: Callable[[str], object]) -> None:
        """`trouble` is called with what a failed call was, once for each series of failures, and with an
        empty text when it is over.
        """
        self._trouble = trouble
        self._is_troubled = False
        self.is_endless = False
        """Calls that fail are repeated; else the first failure is raised."""

    async def persist(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do it, and repeat it while a store cannot be reached. Other errors are raised."""
        attempt = 0
        while True:
            try:
                done = await action()
            except ClientError as error:
                if not self.is_endless or not _may_pass(error):
                    raise
                self.failed(error)
            else:
                self.recovered()
                return done
            await trio.sleep(RETRY_DELAYS[min(attempt, len(RETRY_DELAYS) - 1)])
            attempt += 1

    def failed(self, error: NetstoreError) -> None:
        """Tell of a failure, unless one was told since the last success."""
        if not self._is_troubled:
            self._is_troubled = True
            self._trouble(str(error))

    def recovered(self) -> None:
        """A store has answered again."""
        if self._is_troubled:
            self._is_troubled = False
            self._trouble("")


class OneWay(ABC):
    """The steps of a mirror, of either API."""

    mark: ClassVar[str]
    """What `copied` is: "revision" or "index"."""

    def __init__(
        self,
        told: Callable[[Told], object],
        trouble: Callable[[str], object],
        *,
        notice: Callable[[str], object],
        overwrite: bool,
    ) -> None:
        """`told` is called when something was carried out, and when all was compared; for `trouble` see
        `Patience`; `notice` with what somebody should know, such as a file in the target that gives way to a
        folder. `overwrite`: a first copy may replace and delete what the target has, and the target may
        become equal to a source that went back, or is another than was copied.
        """
        self._told = told
        self._patience = Patience(trouble)
        self._notice = notice
        self._overwrite = overwrite
        self._writer = secrets.token_hex(8)
        self._sequence = 0
        self._modified = 0
        """The revision, or v2 index, of the checkpoint in the target."""
        self._witness: Witness | None = None
        self._listed: Witness | None = None
        """The last change that a comparison has seen which is not complete."""
        self._is_behind = False
        """What the source has changed since the checkpoint is not all known by its events."""
        self._unproven = 0
        """How often the source could not show the last change."""
        self.copied = 0
        """See `Checkpoint.revision`."""

    async def copy(self) -> None:
        """Make the target equal to the source, once.

        NotMirrored if it cannot be; ClientError if a store cannot be asked.
        """
        await self._begin()
        while True:
            try:
                proof, _ = await self._prove()
                await self._compare(proof)
            except Reconnected as error:
                self._patience.failed(error)
                await trio.sleep(RETRY_DELAYS[0])
            else:
                self._patience.recovered()
                return

    async def follow(self) -> None:
        """Make the target equal, or go on where the last run was, and follow the source without end. Calls
        that fail are repeated. NotMirrored as in `copy`.
        """
        self._patience.is_endless = True
        await self._patience.persist(self._begin)
        while True:
            await self._patience.persist(self._follow)

    async def _follow(self) -> None:
        """Prove, compare all if needed, and carry out what changes, until that is to be begun anew."""
        proof, must_compare = await self._prove()
        if must_compare:
            self._is_behind = True  # until it is complete
            await self._compare(proof)
        with suppress(Reconnected):
            await self._go_on(proof, is_compared=must_compare)

    async def _prove(self) -> tuple[Proof, bool]:
        """A proof, and whether the changes after the checkpoint are not enough, so that all is to be
        compared. NotMirrored if the source went back, is another or cannot show that it is not, and the
        target may not become equal to it. Reconnected if it was not one store that has answered.
        """
        newest = await self._newest()
        proof = Proof(self._breaks)
        must_compare = await self._must_compare(newest)
        proof.check()
        return proof, must_compare

    async def _must_compare(self, newest: int) -> bool:
        if newest < self.copied:
            found = f"SOURCE is at {self.mark} {newest}, and was at {self.copied} before"
        elif not self.copied and self._witness is None and self._listed is None:
            return True  # nothing was copied
        else:
            try:
                if await self._shows_last():
                    return self._is_behind or not self.copied
                if not self._overwrite:
                    await self._show_older()
                    self._tell_unproven()
                    return True
                found = "SOURCE does not show the last change that was copied, or none is known"
            except Another as error:
                if not self._overwrite:
                    raise
                found = error.found
        self._notice(f"{found}: TARGET is made equal to it all the same")
        self.copied, self._witness, self._listed = 0, None, None  # of this source nothing was copied
        return True

    async def _shows_last(self) -> bool:
        """Whether the source shows the last change that was copied, or that was seen by a comparison that
        was interrupted. Another if it shows something else.
        """
        newest = self._newest_witness()
        if newest is None:
            return False
        return await self._is_proven(newest) or (
            newest is not self._witness and self._witness is not None and await self._is_proven(self._witness)
        )

    def _newest_witness(self) -> Witness | None:
        """The last change that was copied, or a later one that a comparison has seen."""
        known = [each for each in (self._witness, self._listed) if each is not None]
        return max(known, key=lambda each: each.revision, default=None)

    async def _show_older(self) -> None:
        """Another unless the keys that the source has not changed since the checkpoint show that it is the
        same.
        """
        if not self.copied:
            raise Another(
                "the first copy was interrupted, and SOURCE does not show the last change that it had seen",
                is_certain=False,
            )
        await self._check_copied()

    def _tell_unproven(self) -> None:
        self._unproven += 1
        if self._unproven == MOST_UNPROVEN:
            self._notice(
                "SOURCE does not have the last change any more that was copied, or none is known: until there"
                " is another one, all is compared after each break of its connection"
            )

    @abstractmethod
    async def _begin(self) -> None:
        """Read the checkpoint, or write the first one."""

    @abstractmethod
    def _breaks(self) -> int:
        """See `Proof`."""

    @abstractmethod
    async def _newest(self) -> int:
        """At what the source is, by a linearizable read. NotMirrored if it is another cluster, or went back
        and may not.
        """

    @abstractmethod
    async def _is_proven(self, witness: Witness) -> bool:
        """Whether the source shows this change. False if that cannot be told: it is compacted, or forgotten,
        and its key was changed since. Another if it shows something else.
        """

    @abstractmethod
    async def _check_copied(self) -> None:
        """Another unless all keys that the source has not changed since the checkpoint are in the target as
        they are, and one such key at least.
        """

    @abstractmethod
    async def _compare(self, proof: Proof) -> None:
        """Compare all, and write what differs. Reconnected if the proof does not hold any more."""

    @abstractmethod
    async def _go_on(self, proof: Proof, *, is_compared: bool) -> None:
        """Carry out what changes, until the source ends that, or has forgotten some. `is_compared`: all was
        compared just before. Reconnected if the proof does not hold any more.
        """


def _may_pass(error: ClientError) -> bool:
    """Whether the same call may succeed later, with nothing changed by somebody."""
    if isinstance(error, Status):
        return error.code in {UNAVAILABLE, DEADLINE_EXCEEDED}
    if isinstance(error, V2Error):
        return error.code in {RAFT_ERROR, WATCHER_CLEARED}
    if isinstance(error, Unreachable):
        return not error.is_refused
    return isinstance(error, Reconnected) or (isinstance(error, BadAnswer) and error.status >= 500)
