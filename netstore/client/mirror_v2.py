"""Copies a folder of one store's v2 tree into another and follows its changes: one way, live, resumable.

The listing of the source is compared folder by folder, from an index that is read before it, and all events
after that index are carried out in their order: so the target is equal to the source at the index of the last
event, though folders were read at different moments. The checkpoint, a hidden key of the target, has the
index up to which that was done. It is written from time to time: events after it are carried out once more by
the next run, which ends in the same state; and before a write of what is newer than the source was known to
be. Only the run that has written it last may write it. Others look at it before they write, a second after
they did so last at most, and end; a run that begins where another one was waits as long.

Values, folders and TTLs are kept; indexes are not. A write of a file replaces what was found by its index, so
one that a store carries out late does not undo a later one. That is not so for a folder, nor for a refresh:
they have no index to compare. A late TTL of either stays until the next look or event, and a late deletion of
a folder takes what was written into it since.

A refresh of a TTL is no event: the source is asked again for a node with a TTL when half of its time is over,
while the next event is waited for, and between the nodes of a comparison. Where a folder ended in the target
first, what was in it has gone with it, and no event tells of that: all is compared again, or, by a comparison
that goes on, that folder.

After each new connection, and before a comparison, the source shows that it is the store that was copied
(`client.mirror`): by the node that was changed last, or by the event of that change (`mirror_v2_proof`). A
run that follows has two connections: one for the long poll, and one that the source is asked over meanwhile.
A poll is cut from time to time, and its connection with it: only where the source has just shown the witness
over the other one, which the next poll uses. No events are kept while all is compared: where the source has
forgotten some by then, which a store does after 1,000, all is compared again.
"""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec
import trio

from netstore.client.mirror import (
    PROBE_TTL,
    Checkpoint,
    NotMirrored,
    OneWay,
    Proof,
    Reconnected,
    TakenOver,
    Told,
    Witness,
    later,
    parse_checkpoint,
    shown,
    together,
)
from netstore.client.mirror_v2_nodes import (
    CHANGED,
    Scope,
    Source,
    Target,
    Timed,
    Wanted,
    children,
    is_within,
    join,
    name_of,
    wanted_of,
)
from netstore.client.mirror_v2_proof import REMOVALS, Past, key_of, listed_witness, witness_of
from netstore.client.v2 import INDEX_CLEARED, KEY_NOT_FOUND, NOT_A_FILE, NOT_A_FOLDER, V2Error

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.client.v2 import Answer, Node, Poll, V2Client

POLL_SECONDS: Final = 5.0
"""A poll without an event is sent again after so long, from the index that the store had meanwhile: a store
forgets its events after the next 1,000, of whatever keys.
"""

SAVE_SECONDS: Final = 1.0
"""The checkpoint is written at most this long after an event, and read at most this long before a write."""

HOLD_SECONDS: Final = 20.0
"""The source is asked after so long, while the target is written: idle connections end, here or there."""

ENDED_SECONDS: Final = 0.1
"""How long to wait after a poll that the source has ended; twice as long after each more in a row."""

MOST_ENDED_DELAY: Final = 20
"""How many times as long at most."""

SHORTEST_LOOK: Final = 0.5
"""Seconds between two looks at the source for one node with a TTL, at least."""

LISTED_SHARE: Final = 0.25
"""After this share of a file's TTL the listing of the target tells no more whether it is there."""

LATE_SECONDS: Final = 5.0
"""That looks are later than this is told."""

MOST_ENDED: Final = 10
"""Polls in a row that the source ends without an event, until that is told."""

STANDBY_EVENTS: Final = 200
"""Of the 1,000 that a store keeps: after so many more another standby is looked for, if there is none."""


class Mirror(OneWay):
    """Makes a folder of the target a mirror of one of the source."""

    mark = "index"

    def __init__(
        self,
        source: V2Client,
        target: V2Client,
        scope: Scope,
        told: Callable[[Told], object],
        trouble: Callable[[str], object],
        *,
        notice: Callable[[str], object],
        overwrite: bool = False,
    ) -> None:
        """See `client.mirror.OneWay`."""
        super().__init__(told, trouble, notice=notice, overwrite=overwrite)
        self._source = Source(source, may_go_back=overwrite)
        self._target = Target(target, scope, self._patience, self._claim, notice, lost=self._lost)
        self._past = Past(self._source, scope.source)
        self._scope = scope
        self._save_at = float("inf")
        """When to write the checkpoint."""
        self._claimed = float("-inf")
        """When the checkpoint was written, or read, last, by the clock of this host since its start."""
        self._saved: tuple[int, Witness | None, Witness | None, bool] = (0, None, None, False)
        """See `_to_save`, as it was then."""
        self._lasting: Witness | None = None
        """As `_fresh`, but for files with a TTL."""
        self._is_alone = True
        """There may be no other connection to the source than that of the poll."""
        self._silent = 0
        """Up to which index the last poll has found no event. If the next one, by a member that has come as
        far, finds none either, none was.
        """
        self._ended = 0
        """How many polls in a row the source has ended."""
        self._timed = Timed(notice)
        self._was_timed = False
        """The target may have nodes with a TTL that are not among these: not all was compared since."""
        self._lost_folders: dict[str, None] = {}
        """See `_lost`; those that the comparison is to list again, each once."""
        self._is_late = False
        """It was told that looks are late."""
        self._is_strange_told = False
        """It was told that a folder cannot be asked for."""
        self._is_unseen_told = False
        """It was told that a node with a TTL cannot be looked at."""
        self._is_outrun = False
        """It was told that the source has forgotten what it changed during a comparison."""

    # --- the checkpoint

    async def _claim_target(self) -> None:
        scope = self._scope
        if scope.target != "/" and is_within(scope.checkpoint, scope.target):
            raise NotMirrored(
                f"checkpoint {scope.checkpoint}: is in the folder {scope.target} of TARGET, which becomes"
                " equal to one of SOURCE: name another key by --checkpoint"
            )
        found = await self._target.node(scope.checkpoint, quorum=True)
        newest = await self._source.newest(scope.source)  # another run may have raised what was seen before
        there = await self._target.node(scope.target, quorum=True)
        if there is None:
            await self._target.make_way(scope.target)
        if found is not None:
            checkpoint = parse_checkpoint(
                (found.value or "").encode(), scope.checkpoint, self._source.cluster, scope.source.encode()
            )
            self._modified = found.modified_index
            self._resume(checkpoint)
            self._was_timed = checkpoint.timed
            self._is_behind = checkpoint.behind or checkpoint.timed
        else:
            self._modified = 0
            self._resume(Checkpoint(self._source.cluster, "", 0, self._writer, 0, seen=newest))
            self._overwriting = there is not None and bool(there.nodes or not there.dir)
        if self._source.cluster == self._target.cluster and (
            is_within(scope.source, scope.target)
            or is_within(scope.target, scope.source)
            or is_within(scope.checkpoint, scope.source)
        ):
            await self._check_not_itself()
        if found is not None:
            self._check_forward(newest)
            await self._save_silently()
            await trio.sleep(SAVE_SECONDS)  # until the run before has seen that, or has ended
            return
        if there is not None and not self._overwrite and (there.nodes or not there.dir):
            some = there.nodes[0].key if there.nodes else there.key
            raise NotMirrored(
                f"TARGET has v2 keys already, such as {shown(some.encode())}: name another folder there by"
                " --target-prefix, or let them be replaced and deleted by --overwrite"
            )
        await self._save()

    async def _check_not_itself(self) -> None:
        """Both have the same cluster id, as two that were begun with the same flags have too. NotMirrored if
        they are one store: a hidden key that is written into the target for a moment is in the source.
        TakenOver if that has gone meanwhile.
        """
        key, client = f"/_netstore-mirror-{secrets.token_hex(8)}", self._target.client
        await client.create(key, "", ttl=PROBE_TTL)
        found = await self._source.node(key, quorum=True)
        try:
            await client.delete(key)
        except V2Error as error:
            if error.code != KEY_NOT_FOUND:
                raise
            raise TakenOver(key, None) from None
        if found is not None:
            raise NotMirrored(
                "SOURCE and TARGET are the same store, and the v2 keys would be copied to themselves: name"
                " folders of which none is in the other by --keys and --target-prefix, and a --checkpoint"
                " outside of what is copied"
            )

    async def _claim(self, is_again: bool) -> None:
        """Before a write: the checkpoint says how new it may be, and is this run's. NotMirrored if it is
        another's.
        """
        now = time.clock_gettime(time.CLOCK_BOOTTIME)  # which goes on while the host is suspended
        if trio.current_time() > self._source.heard + HOLD_SECONDS:
            await self._newest()
        self._seen = max(self._seen, self._source.index)
        if self._saved != self._to_save():
            await self._save_silently()
        elif is_again or now > self._claimed + SAVE_SECONDS:
            found = await self._target.node(self._scope.checkpoint, quorum=True)
            if found is None or found.modified_index != self._modified:
                raise self._taken_over(found)
            self._claimed = now

    async def _save(self) -> None:
        """Write the checkpoint, and tell so."""
        await self._save_silently()
        self._tell()

    async def _save_silently(self) -> None:
        self._sequence += 1
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        saved = self._to_save()
        state = Checkpoint(
            self._source.cluster,
            self._scope.source.encode().hex(),
            self.copied,
            self._writer,
            self._sequence,
            timed=self._was_timed or bool(self._timed),
            witness=self._witness,
            standby=self._standby,
            seen=self._seen,
            behind=self._is_behind,
            overwriting=self._overwriting and not self.copied,
        )
        value = msgspec.json.encode(state).decode()
        self._modified = await self._patience.persist(lambda: self._commit(value))
        self._claimed, self._saved = now, saved
        self._save_at = float("inf")

    def _to_save(self) -> tuple[int, Witness | None, Witness | None, bool]:
        """What is in the checkpoint before a write: how new the source is; what was listed last; where no
        change was copied yet, the first one; and whether all is to be compared.
        """
        first = self._standby if self._witness is None else None
        return self._seen, self._fresh, first, self._is_behind

    def _tell(self) -> None:
        self._told(Told(self.copied, self._target.written, self._target.deleted))

    async def _commit(self, value: str) -> int:
        """The index of the checkpoint with this value, written now or by an earlier attempt."""
        key, client = self._scope.checkpoint, self._target.client
        try:
            if self._modified:
                answer = await client.compare_and_swap(key, value, prev_index=self._modified)
            else:
                answer = await client.create(key, value)
        except V2Error as error:
            if error.code not in CHANGED:
                raise
            if error.code in {NOT_A_FILE, NOT_A_FOLDER}:
                raise NotMirrored(
                    f"checkpoint {key}: {error.cause} is in its way: name another key by --checkpoint"
                ) from None
        else:
            return answer.node.modified_index
        found = await self._target.node(key, quorum=True)
        if found is not None and found.value == value:
            return found.modified_index
        raise self._taken_over(found)

    def _taken_over(self, found: Node | None) -> TakenOver:
        return TakenOver(self._scope.checkpoint, None if found is None else (found.value or "").encode())

    # --- is it the store that was copied?

    def _breaks(self) -> int:
        return self._source.client.transport.connections

    async def _newest(self) -> int:
        self._seen = max(self._seen, self._source.index)
        newest = await self._source.newest(self._scope.source)
        self._check_forward(newest)
        self._seen = max(self._seen, newest)
        return newest

    async def _is_proven(self, witness: Witness) -> bool:
        return await self._past.shows(witness)

    async def _is_bare(self) -> bool:
        node = await self._target.at("")
        return node is None or (node.dir and not node.nodes)

    async def _ask(self, proof: Proof) -> bool:
        """Ask the source over the connection that no poll uses. Whether it still shows the witness, or where
        none is known, that there is nothing; over a new connection it has to. Reconnected if it does not.
        """
        await self._newest()
        anew = Proof(self._breaks)
        if self._witness is None:
            is_shown = await self._past.is_empty()
        else:
            is_shown = await self._is_proven(self._witness)
        anew.check()
        if not proof.holds:
            if not is_shown:
                raise Reconnected
            proof.renew(anew)
        return is_shown

    async def _both(self, path: str, proof: Proof) -> tuple[Node | None, Node | None]:
        """What the source and the target have of a path, which is relative to the folder that is copied.
        Reconnected if the proof does not hold for that.
        """
        ours = await self._source.node(join(self._scope.source, path))
        proof.check()
        theirs = await self._target.at(path)
        self._patience.recovered()
        return ours, theirs

    # --- comparing

    async def _compare(self, proof: Proof) -> None:
        index = await self._newest()
        proof.check()
        self._was_timed = self._was_timed or bool(self._timed)
        self._fresh, self._lasting, self._silent = None, None, 0
        self._lost_folders = {"": None}
        while self._lost_folders:
            await self._compare_lost(proof)
            await self._choose_witness(proof)
        self.copied, self._is_behind, self._was_timed = index, False, False
        await self._save()

    async def _compare_lost(self, proof: Proof) -> None:
        """Compare those folders, and what is in them, until none is lost meanwhile."""
        waiting = list[str]()
        while waiting or self._lost_folders:
            waiting += self._lost_folders
            self._lost_folders.clear()
            waiting += reversed(await self._compare_node(proof, waiting.pop()))
            if not waiting:
                await self._look_at_all_due(proof)

    async def _choose_witness(self, proof: Proof) -> None:
        """After a comparison: the newest node that was listed. If that is a file with a TTL, a refresh may
        have given it its index, without an event, and the next one gives it another: then the newest of the
        other nodes, which the source has to show. Nodes that are due are looked at meanwhile. Reconnected as
        in `_ask`.
        """
        self._witness = self._standby = fresh = self._fresh
        if fresh is None or self._lasting in {None, fresh} or await self._shows_created(proof, fresh):
            return
        self._witness = self._standby = self._fresh = self._lasting
        await self._ask(proof)  # the connection of the poll for the event is closed

    async def _shows_created(self, proof: Proof, witness: Witness) -> bool:
        """See `Past.shows_created`. Meanwhile nodes that are due are looked at."""
        shown: list[bool] = []
        ended = trio.Event()

        async def ask() -> None:
            shown.append(await self._past.shows_created(witness))
            ended.set()

        async def look() -> None:
            while not ended.is_set():
                if not await self._look(proof):
                    with trio.move_on_at(self._timed.next()):
                        await ended.wait()

        await together((look, ask))
        return shown[0]

    async def _compare_node(self, proof: Proof, path: str) -> list[str]:
        """Make a node of the target equal, with the files below it; the folders below it are returned."""
        listed = trio.current_time()
        ours, theirs = await self._both(path, proof)
        is_sure = self._past.can_ask(join(self._scope.source, path))  # else several nodes may be told so
        if ours is None:
            if is_sure:
                await self._remove(proof, path)
            else:
                self._tell_strange_folder(path)
            return []
        for node in (ours, *ours.nodes):
            if self._past.can_read(node.key):
                self._note(witness := listed_witness(node))
                if node.dir or node.expiration is None:
                    self._lasting = later(self._lasting, witness)
        await self._ensure(proof, path, wanted_of(ours), theirs)
        await self._look_meanwhile(proof)
        if not ours.dir:
            return []
        present = children(theirs)
        folders = []
        for node in ours.nodes:
            name = name_of(node)
            below = f"{path}/{name}"
            there = present.pop(name, None)
            if node.dir:
                folders.append(below)
            if not node.dir or not self._past.can_ask(node.key):
                wanted = wanted_of(node)
                if wanted.ttl is not None and trio.current_time() > listed + LISTED_SHARE * wanted.ttl:
                    there = await self._target.alone(below)  # it may have ended since it was listed
                await self._ensure(proof, below, wanted, there)
                await self._look_meanwhile(proof)
        for name in present if is_sure else ():
            await self._remove(proof, f"{path}/{name}")
            await self._look_meanwhile(proof)
        return folders

    def _tell_strange_folder(self, path: str) -> None:
        """A folder was listed, and cannot be asked for."""
        if not self._is_strange_told:
            self._is_strange_told = True
            self._notice(
                f"{join(self._scope.source, path)}: is a folder of SOURCE whose name is not UTF-8: what is"
                " in it cannot be listed, so it is copied by its events alone, and no comparison removes it"
            )

    # --- following

    async def _go_on(self, proof: Proof, *, is_compared: bool) -> None:
        """Carry out the events after `copied`.

        The first poll is for the events after the witness, if the source still has them. Those up to `copied`
        were copied, or are of a source that was put back to a state between the two. After a comparison they
        were listed, and the last one becomes the witness: so a deletion does not lead to another comparison
        after the next break.
        """
        after = self.copied if self._witness is None else min(self._witness.revision, self.copied)
        listed = self.copied if is_compared else 0
        while True:
            try:
                async with self._source.poll(self._scope.source, after, recursive=True) as poll:
                    self._patience.recovered()
                    proof.check()
                    answer, is_cut = await self._event(proof, poll)
            except V2Error as error:
                if error.code != INDEX_CLEARED:
                    raise
                self._is_behind = after == self.copied
                if self._is_behind:
                    self._tell_outrun(is_outrun=after == listed)
                    return
                after = self.copied
                continue
            if answer is not None:
                self._silent = self._ended = 0
                after = answer.node.modified_index
                self._source.saw(after)
                if after > self.copied or (after > listed and self._path_of(answer.node) is None):
                    await self._carry_out(proof, answer, is_past=after <= poll.etcd_index)
                    self._reach(after)
                    self._tell()
                elif after > listed:
                    self._is_behind = True
                elif is_within(answer.node.key, self._scope.source):
                    self._witness = witness_of(answer.node, is_removal=answer.action in REMOVALS)
                    self._save_soon()
            if self._is_behind:
                return
            if answer is not None:
                continue
            self._is_alone = True
            if not is_cut:
                await self._wait_for_poll()
            elif poll.etcd_index >= self._silent:  # else by one that lags behind
                self._ended = 0
                self._reach(self._silent)
                after = max(after, self.copied)
                self._silent = poll.etcd_index

    async def _wait_for_poll(self) -> None:
        """The source has ended a poll: wait a little."""
        self._ended += 1
        if self._ended == MOST_ENDED:
            self._notice(
                f"SOURCE has ended {MOST_ENDED} polls in a row without an event, as a proxy does that allows"
                " none so long: it is asked again and again; name the members themselves"
            )
        await trio.sleep(ENDED_SECONDS * min(2 ** min(self._ended - 1, 10), MOST_ENDED_DELAY))

    def _tell_outrun(self, *, is_outrun: bool) -> None:
        if is_outrun and not self._is_outrun:
            self._is_outrun = True
            self._notice(
                "SOURCE has forgotten some of the events since the comparison began, as it keeps the last"
                " 1,000 only: all is compared again, until it changes less meanwhile"
            )

    def _reach(self, index: int) -> None:
        if index > self.copied:
            self.copied = index
            self._save_soon()

    def _save_soon(self) -> None:
        self._save_at = min(self._save_at, trio.current_time() + SAVE_SECONDS)

    async def _carry_out(self, proof: Proof, event: Answer, *, is_past: bool) -> None:
        """Do in the target what was done in the source."""
        node, removed = event.node, event.action in REMOVALS
        if not is_within(node.key, self._scope.source):
            # A folder around the one that is copied; an event of the past may also be of one beside it.
            if removed and is_within(self._scope.source, node.key):
                await self._remove(proof, "")
            return
        key = "" if self._standby is None else key_of(self._standby)
        was_standby = is_within(key, node.key) if removed else key == node.key
        # What cannot be read is the standby only where nothing else is known: its event may be forgotten.
        may_stand = not removed and (self._witness is None or self._past.can_read(node.key))
        now = listed_witness(node) if may_stand else None
        # Before it is written: the checkpoint that is written first is to have a change that can be shown.
        self._changed(node.modified_index, now, was_standby=was_standby)
        path = self._path_of(node)
        if path is not None and removed:
            await self._remove(proof, path)
        elif path is not None:
            there = await self._target.alone(path)
            is_gone = there is None or not there.dir
            # Of the past may also be one that was removed since, of which the event is to come.
            is_lost = event.action == "update" and node.dir and is_gone
            if is_lost and (not is_past or await self._is_there(path)):
                self._lost(path)
            await self._ensure(proof, path, wanted_of(node), there, is_event=True)
            if is_past and path in self._timed:
                self._timed.put(path, trio.current_time())  # the TTL is the one of that time
        self._witness = witness_of(node, is_removal=removed)

    def _path_of(self, node: Node) -> str | None:
        """The path of a node in the folder that is copied. None if it is hidden: a listing does not have it
        either; or if it is elsewhere.
        """
        path = node.key[len(self._scope.source.rstrip("/")) :]
        return None if "/_" in path or not is_within(node.key, self._scope.source) else path

    async def _ensure(
        self, proof: Proof, path: str, wanted: Wanted, there: Node | None, *, is_event: bool = False
    ) -> None:
        """See `Target.ensure`. A node with a TTL is to be looked at again."""
        had_ttl = path in self._timed
        await self._target.ensure(proof, path, wanted, there, is_event=is_event, had_ttl=had_ttl)
        if wanted.ttl is None or join(self._scope.target, path) == "/":  # the root has no TTL
            self._timed.discard(path)
        else:
            self._timed.put(path, _next_look(trio.current_time(), wanted.ttl))

    def _lost(self, path: str) -> None:
        """A folder has ended in the target with what was in it, of which there may be no event: all is to be
        compared; during a comparison that folder once more.
        """
        self._is_behind = True
        self._lost_folders[path] = None

    async def _is_there(self, path: str) -> bool:
        """Whether the source has a node still."""
        return await self._past.now(join(self._scope.source, path)) is not None

    async def _remove(self, proof: Proof, path: str) -> None:
        self._timed.discard_all(path)
        await self._target.remove(proof, path)

    # --- nodes with a TTL

    async def _event(self, proof: Proof, poll: Poll) -> tuple[Answer | None, bool]:
        """What `Poll.event` has, and whether the poll was cut. Meanwhile the source is asked for nodes with a
        TTL: for one that is due in any case, and for no more once the event is there. So however many events
        or nodes there are, both go on.
        """
        answers: list[Answer | None] = []
        ended, waiting = trio.Event(), trio.CancelScope()

        async def wait() -> None:
            with waiting:
                answers.append(await poll.event(float("inf")))
            ended.set()

        await together((partial(self._work, proof, poll, ended, waiting), wait))
        return (answers[0], False) if answers else (None, True)

    async def _work(self, proof: Proof, poll: Poll, ended: trio.Event, waiting: trio.CancelScope) -> None:
        """What is to be done while an event is waited for. The wait is cut when it was long, and the source
        still shows the witness.
        """
        cut_at = trio.current_time() + POLL_SECONDS
        if self._is_alone or poll.etcd_index < self._source.index:
            await self._ask(proof)
            self._is_alone = False
        self._source.saw(poll.etcd_index)
        while True:
            is_due = await self._look(proof)
            now = trio.current_time()
            if now >= self._save_at:
                await self._save()
            if ended.is_set():
                return
            if self._is_behind:
                waiting.cancel()
                return
            if now >= cut_at:
                is_shown = await self._ask(proof)
                self._is_behind = self._is_lost_soon(is_shown=is_shown)
                if is_shown or self._is_behind:
                    waiting.cancel()
                    return
                cut_at = now + POLL_SECONDS
            if not is_due:
                with trio.move_on_at(min(self._timed.next(), self._save_at, cut_at)):
                    await ended.wait()
                    return

    def _is_lost_soon(self, *, is_shown: bool) -> bool:
        """Whether a comparison is to find another witness while the proof holds: the source does not show
        this one, or may not much longer, and there is no standby.
        """
        if self._witness is None or self._standby is not None:
            return not is_shown
        return self._source.index > self._witness.revision + STANDBY_EVENTS

    async def _look_meanwhile(self, proof: Proof) -> None:
        """The same for one that is due, after each node of a comparison, whether that was written or removed.
        Those that were known before it are among them. Reconnected over a new connection.
        """
        if trio.current_time() >= self._timed.next():
            await self._look(proof, may_ask=False)

    async def _look_at_all_due(self, proof: Proof) -> None:
        """The same for all that are due now, before a comparison is complete."""
        now = trio.current_time()
        while self._timed.next() <= now:
            await self._look(proof, may_ask=False)

    async def _look(self, proof: Proof, *, may_ask: bool = True) -> bool:
        """Ask the source again for a node with a TTL, half of whose time is over. False if there is none.
        Over a new connection the source has to show the witness, if it may be asked for that; else
        Reconnected.
        """
        late = trio.current_time() - self._timed.next()
        if late < 0:
            return False
        if late > LATE_SECONDS and not self._is_late:
            self._is_late = True
            self._notice(
                f"of {len(self._timed)} nodes with a TTL some are looked at {late:.0f} s late: where they are"
                " refreshed by refresh=true, they may end in the target, and come back with the next look"
            )
        path = self._timed.first()
        node = await self._past.now(key := join(self._scope.source, path))
        if not proof.holds:  # the node was read before the source has shown the witness
            if not may_ask or not await self._ask(proof):
                raise Reconnected
            return True
        if node is None and not self._past.can_read(key) and not self._is_unseen_told:
            self._is_unseen_told = True
            self._notice(
                f"{key}: has a TTL, and is in a folder whose name is not UTF-8, which cannot be listed: where"
                " it is refreshed by refresh=true, it ends in the target by the TTL that it had"
            )
        if node is None:
            self._timed.discard(path)  # there is an event of it, or a comparison removes it
            return True
        await self._ensure(proof, path, wanted_of(node), await self._target.alone(path))
        return True


def _next_look(now: float, ttl: int) -> float:
    """When half of what is left of a TTL is over."""
    return now + max(SHORTEST_LOOK, ttl / 2)
