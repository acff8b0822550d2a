"""What the mirrors of both APIs share: their steps, the checkpoint that makes them resumable, the proof that
a source is still the store that was copied, and repeated calls.

A store that was put back to an earlier state, or lost its disk and was begun anew with the same flags, has
the ids that it had. Two things in the checkpoint tell it from the store that was copied. `seen` is the
highest revision, or v2 index, that the source is known to have had; it is in the target before anything that
is as new, so a source that is at a lower one went back. The witness is the last change that was copied, or
that was seen by a comparison which is not complete: a source that shows the same change has the same history
up to it. Where it has forgotten that change, as of a deletion, it may show the standby: the newest key that
is there, so that nothing it has lost would be deleted in the target; then all is compared. A source that can
show neither is refused, whatever else it has in common with the target. So a run that follows looks for
another standby once that key is changed or removed, while the proof holds.

A proof holds for the answers that came over the connections there were, and each write into the target takes
one: so nothing is written, or deleted, that a source said which was put in the place of the first one.
"""

from __future__ import annotations

import os
import secrets
import socket
from abc import ABC, abstractmethod
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, ClassVar, Final, NamedTuple, TypeVar

import msgspec
import trio

from netstore.client.faults import BadAnswer, ClientError, Unreachable
from netstore.client.grpc import DEADLINE_EXCEEDED, UNAVAILABLE, Status
from netstore.client.v2 import RAFT_ERROR, WATCHER_CLEARED, V2Error
from netstore.errors import NetstoreError, Reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    T = TypeVar("T")

RETRY_DELAYS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds to wait after the first, second, ... failure in a row; the last one repeats."""

STEADY_SECONDS: Final = 5.0
"""How long the source must answer over one connection so that breaks before it count no more."""

MOST_CLAIMS: Final = 1000
"""How often a run that begins tries to write the checkpoint, while the one before does so too."""

PROBE_TTL: Final = 60
"""Seconds after which a key that was to tell whether both stores are one goes by itself."""

MOST_BREAKS: Final = 10
"""New connections in a row to the source after which one copy gives up: something closes each."""


class NotMirrored(NetstoreError):  # noqa: N818 - named for what did not happen
    """The target cannot be a mirror of the source; the text says why, and what to do."""


class TakenOver(NotMirrored):
    """The checkpoint is not as this run has written it."""

    def __init__(self, key: str, value: bytes | None) -> None:
        """What is there now; None if nothing is."""
        try:
            writer = msgspec.json.decode(value or b"", type=Checkpoint).writer
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            super().__init__(
                f"checkpoint {key}: was removed, or something else was written into it: if TARGET was emptied"
                " or put back, run this again, and what is missing there is copied; else find out who does"
                " that, or name another key by --checkpoint"
            )
        else:
            super().__init__(
                f"checkpoint {key}: another mirror writes into TARGET by it and has begun later, {writer}: so"
                " this one ends; if both are wanted, name another key by --checkpoint; if that one does not"
                " run, TARGET was put back to when it did: run this again, and what is missing is copied"
            )


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
        """`breaks` counts the connections. It is to be made before the answer that proves."""
        self._breaks = breaks
        self._number = breaks()

    @property
    def holds(self) -> bool:
        """Whether no answer came over another connection."""
        return self._breaks() == self._number

    def renew(self, later: Proof) -> None:
        """Let it hold for what a later one holds for."""
        self._number = later._number

    def check(self) -> None:
        """Reconnected if it does not hold. To be called before what the source said is written."""
        if not self.holds:
            raise Reconnected


Bytes = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{2})*\Z")]
"""Hexadecimal."""
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""What a revision, a v2 index or a version may be."""


class Witness(msgspec.Struct, frozen=True):
    """A change of a key that was copied."""

    key: Bytes
    """The key in the source."""
    revision: Count
    """The revision, or v2 index, of the change."""
    created: Count
    """When the key was created; if the change removed it, then the key that was there before."""
    version: Count = 0
    """The version of that key; 0 in v2, which has none."""
    digest: str = ""
    """Of the value; empty if the change removed the key, or the value is not known."""
    quiet: bool = False
    """That a v2 node with a TTL, or a folder, was created: of its later index there may be no event."""


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
    """The last change; None if none is known, as of a range without keys."""
    standby: Witness | None = None
    """The last change of the newest key that is there; None if that is not known."""
    seen: Count = 0
    """The highest revision, or v2 index, that the source is known to have had: nothing in the target is
    newer.
    """
    behind: bool = False
    """All is to be compared before a run goes on: a comparison was needed, or had begun, and is not complete.
    The witness may be what that has seen, so it does not tell.
    """
    overwriting: bool = False
    """Nothing of this source was copied completely; keys that only the target has go for `--overwrite`."""


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
        for witness in (found.witness, found.standby):
            if witness is not None and not witness.key.startswith(found.keys):
                raise msgspec.ValidationError("a witness is not one of the keys")
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


def no_proof(what: str, witness: Witness | None) -> Another:
    """The source cannot show the witness."""
    if witness is None:
        found = "TARGET has keys, and it is not known which change of SOURCE was copied last"
    else:
        key = shown(bytes.fromhex(witness.key))
        found = (
            f"SOURCE does not show the last change that was copied, of the key {key} at {what}"
            f" {witness.revision}: it has compacted or forgotten it, or never had it, and the key is not as"
            " it was"
        )
    return Another(found, is_certain=False)


def later(one: Witness | None, other: Witness | None) -> Witness | None:
    """The later one of two changes; of two at once, as of a node and the folder that was made for it, what
    tells more: the node, as a folder is shown by less.
    """
    if one is None or other is None:
        return one or other

    def order(each: Witness) -> tuple[int, ...]:
        return each.revision, not each.quiet, bool(each.digest), len(each.key) if each.quiet else 0

    return max(one, other, key=order)


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


class _Breaks:
    """How often a proof has ended one after the other."""

    def __init__(self) -> None:
        self._count = 0
        self._at = trio.current_time()

    def next(self) -> int:
        """One more; how many there were since one has held for `STEADY_SECONDS`."""
        now = trio.current_time()
        self._count = self._count + 1 if now < self._at + STEADY_SECONDS else 1
        return self._count

    async def wait(self) -> None:
        """Before the source is asked again: longer each time."""
        await trio.sleep(RETRY_DELAYS[min(self._count, len(RETRY_DELAYS)) - 1])
        self._at = trio.current_time()


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
        self._writer = f"{socket.gethostname()} process {os.getpid()} run {secrets.token_hex(4)}"
        self._sequence = 0
        self._modified = 0
        """The revision, or v2 index, of the checkpoint in the target."""
        self._seen = 0
        """See `Checkpoint.seen`."""
        self._witness: Witness | None = None
        """The last change that was copied, or that was seen by a comparison which is not complete."""
        self._standby: Witness | None = None
        """See `Checkpoint.standby`."""
        self._fresh: Witness | None = None
        """The last change that this comparison has seen."""
        self._is_behind = False
        """What the source has changed since the checkpoint is not all known by its events. See
        `Checkpoint.behind`.
        """
        self._proof: Proof | None = None
        """The last one of a run that follows."""
        self._overwriting = False
        """See `Checkpoint.overwriting`; it counts while nothing is copied."""
        self.copied = 0
        """See `Checkpoint.revision`."""

    async def copy(self) -> None:
        """Make the target equal to the source, once.

        NotMirrored if it cannot be; ClientError if a store cannot be asked.
        """
        await self._begin()
        breaks = _Breaks()
        while True:
            try:
                proof = await self._prove()
                self._is_behind = True  # until the comparison is complete, for a run that goes on with it
                await self._compare(proof)
            except Reconnected as error:
                self._patience.failed(error)
                if breaks.next() >= MOST_BREAKS:
                    raise
                await breaks.wait()
            else:
                self._patience.recovered()
                return

    async def follow(self) -> None:
        """Make the target equal, or go on where the last run was, and follow the source without end. Calls
        that fail are repeated. NotMirrored as in `copy`.
        """
        self._patience.is_endless = True
        await self._patience.persist(self._begin)
        breaks = _Breaks()
        while True:
            try:
                await self._patience.persist(self._follow)
            except Reconnected as error:
                self._patience.failed(error)
                breaks.next()
                await breaks.wait()

    async def _follow(self) -> None:
        """Prove, unless that was done and holds; compare all if needed; and carry out what changes, until
        that is to be begun anew.
        """
        if self._proof is None or not self._proof.holds:
            self._proof = await self._prove()
        is_compared = self._is_behind
        if is_compared:
            await self._compare(self._proof)
        await self._go_on(self._proof, is_compared=is_compared)

    async def _prove(self) -> Proof:
        """A proof; `_is_behind` tells whether all is to be compared. NotMirrored if the source went back, is
        another or cannot show that it is not, and the target may not become equal to it. Reconnected if it
        was not one store that has answered.
        """
        newest = await self._newest()
        proof = Proof(self._breaks)
        await self._check_source(newest, proof)
        proof.check()
        return proof

    async def _check_source(self, newest: int, proof: Proof) -> None:
        if self._overwriting and not (self.copied or self._overwrite or await self._is_bare()):
            raise NotMirrored(
                "a run with --overwrite was interrupted before TARGET was equal to SOURCE: keys that only"
                " TARGET has would be deleted; run it again with --overwrite to go on with that"
            )
        if newest < self._seen:
            found = f"SOURCE is at {self.mark} {newest}, and was at {self._seen} before"
        elif not self.copied and self._witness is None:
            self._is_behind = True  # nothing was copied
            return
        else:
            try:
                if await self._shows_last(proof):
                    self._is_behind = self._is_behind or not self.copied
                    return
                if await self._is_bare():
                    self._is_behind = True
                    return
                proof.check()  # else one store has shown a part, and another one the rest
                raise no_proof(self.mark, self._witness)
            except Another as error:
                if not self._overwrite:
                    raise
                found = error.found
        self._notice(f"{found}: TARGET is made equal to it all the same")
        # Of this source nothing was copied, and before anything is written the checkpoint says so.
        self.copied, self._witness, self._standby, self._seen = 0, None, None, newest
        self._is_behind = self._overwriting = True
        await self._save()

    def _check_forward(self, newest: int) -> None:
        """NotMirrored if the source was at a later revision, or index, than this, and the target may not go
        back too.
        """
        if newest < self._seen and not self._overwrite:
            raise went_back(self.mark, self._seen, newest)

    async def _begin(self) -> None:
        """Read the checkpoint, or write the first one, so that it is this run's: one that has begun earlier
        ends when it is to write again.
        """
        for _ in range(MOST_CLAIMS - 1):
            try:
                await self._claim_target()
            except TakenOver:
                continue  # by the run before, which does not know yet, or by one that begins as well
            return
        await self._claim_target()

    def _resume(self, found: Checkpoint) -> None:
        """Go on where the run was that has written this checkpoint."""
        self.copied, self._overwriting, self._is_behind = found.revision, found.overwriting, found.behind
        self._witness, self._standby = found.witness, found.standby
        self._seen = max(found.seen, found.revision, found.witness.revision if found.witness else 0)

    async def _shows_last(self, proof: Proof) -> bool:
        """Whether the source shows the witness, or the standby: then all is to be compared, as what was
        removed after it is not shown. The proof holds from the last question on: that the witness is not
        shown may take the connection over which that was asked. Another if it shows something else.
        """
        if self._witness is not None and await self._is_proven(self._witness):
            return True
        if self._standby in {None, self._witness}:
            return False
        await self._newest()
        proof.renew(Proof(self._breaks))
        if not await self._is_proven(self._standby):
            return False
        self._is_behind = True
        return True

    def _note(self, witness: Witness) -> None:
        """A comparison has seen this change."""
        self._fresh = later(self._fresh, witness)
        if self._witness != (newest := later(self._witness, witness)):
            self._witness, self._standby = newest, None

    def _changed(self, revision: int, now: Witness | None, *, was_standby: bool) -> None:
        """A change of this revision, or index, was carried out, after which the key shows `now`, None if it
        was removed. Keep the standby, or forget it: the newest key may be another one then.
        """
        if now is not None and now.revision == revision:
            self._standby = later(now, self._standby)
        elif was_standby:
            is_newest = (
                now is not None and self._standby is not None and now.revision >= self._standby.revision
            )
            self._standby = now if is_newest else None

    @abstractmethod
    async def _claim_target(self) -> None:
        """Read the checkpoint, and write it, or the first one. TakenOver if somebody else has meanwhile."""

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
        """Whether the source shows this change: by its history, or where that is compacted, or forgotten, by
        the key being as it was. False if that cannot be told, as the key was changed since. Another if it
        shows something else.
        """

    @abstractmethod
    async def _is_bare(self) -> bool:
        """Whether the target has nothing that could be lost."""

    @abstractmethod
    async def _save(self) -> None:
        """Write the checkpoint."""

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
        return error.code in {UNAVAILABLE, DEADLINE_EXCEEDED} or Reason.TOO_MANY.text in error.message
    if isinstance(error, V2Error):
        return error.code in {RAFT_ERROR, WATCHER_CLEARED}
    if isinstance(error, Unreachable):
        return not error.is_refused
    return isinstance(error, BadAnswer) and error.status >= 500
