"""What a v2 source can show of its past: whether it is the store that was copied (`client.mirror`).

A change is shown by the node, as long as it has the index of that change, or by the event of it, one of the
last 1,000 that a store keeps. Of a refresh, and of an update of a folder, there is no event that a poll gets,
so a node with a TTL, and a folder, count by when they were created.

An answer has U+FFFD in the place of bytes that are not UTF-8, so a node of such a name cannot be asked for.
Its event is found among those of its folder, and it by its index in the listing of that: no two changes have
the same index. A hidden node of such a name is in no listing, nor is what is in a folder of such a name:
these have their event only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.client.faults import Unreachable
from netstore.client.mirror import Another, Witness, digest
from netstore.client.mirror_v2_nodes import LongFolder, is_within
from netstore.client.v2 import INDEX_CLEARED, V2Error

if TYPE_CHECKING:
    from netstore.client.mirror_v2_nodes import Source
    from netstore.client.v2 import Answer, Node

SURE_SECONDS: Final = 5.0
"""How long to wait for an event of the past, which a store sends at once: it may be on its way."""

REMOVALS: Final = ("delete", "compareAndDelete", "expire")
"""Actions of events after which the node has gone."""

_UNREADABLE: Final = "\ufffd"


class Past:
    """The past of the source, in the folder that is copied. What it says is to be believed only if the source
    has answered over one connection meanwhile (`client.mirror.Proof`).
    """

    def __init__(self, source: Source, folder: str) -> None:
        """`folder` is named as it is, so that U+FFFD in its path is that character."""
        self._source = source
        self._folder = folder

    async def shows(self, witness: Witness) -> bool:
        """Whether the source shows this change. False if that cannot be told, as the key was changed since,
        and the event is forgotten. Another if it shows something else. Unreachable as in `_event`.

        It takes a read, and a poll if that does not tell. Of a name that is not UTF-8 the read is one of the
        whole folder: a change that surely has an event is asked for by that first.
        """
        key = key_of(witness)
        if self._asked(key) != key and not witness.quiet:
            return await self._shows_strange(witness)
        node = await self._node(witness)
        if witness.quiet and node is not None:
            if _is_shown(witness, node):
                return True
            if node.created_index < witness.revision:
                return False  # it is there for longer, and was not created then
        found = None if node is None or node.dir else witness_of(node)  # folders keep no index of updates
        if found is None or found.revision > witness.revision:
            try:
                event = await self._event(witness)
            except V2Error as error:
                if error.code != INDEX_CLEARED:
                    raise
                return False
            if event is None:
                return False
            if witness.quiet:
                return _is_created(witness, event)
            found = witness_of(event.node, is_removal=event.action in REMOVALS)
        return _is_same(witness, found)

    async def _shows_strange(self, witness: Witness) -> bool:
        """The same by the event, and by the listing where that is forgotten."""
        try:
            event = await self._event(witness)
        except V2Error as error:
            if error.code != INDEX_CLEARED:
                raise
            node = await self._node(witness)
            return node is not None and _is_same(witness, witness_of(node))
        if event is None:
            return False
        return _is_same(witness, witness_of(event.node, is_removal=event.action in REMOVALS))

    async def shows_created(self, witness: Witness) -> bool:
        """Whether there is the event of the creation of a node, or it is forgotten. Unreachable as in
        `_event`.
        """
        try:
            event = await self._event(witness)
        except V2Error as error:
            if error.code != INDEX_CLEARED:
                raise
            return True
        return event is not None and _is_created(witness, event)

    async def is_empty(self) -> bool:
        """Whether there is nothing that could be a witness."""
        node = await self._source.node(self._folder, quorum=True)
        return node is None or not any(self.can_read(each.key) for each in (node, *node.nodes))

    def can_read(self, key: str) -> bool:
        """Whether a node, of which an answer has told this key, can be read again: not the root, which has no
        index, nor what has its event only.
        """
        asked = self._asked(key)
        folder, _, name = key.rpartition("/")
        is_listed = asked == (folder or "/") and not name.startswith("_")
        return key != "/" and (asked == key or is_listed)

    def can_ask(self, key: str) -> bool:
        """Whether a node, of which an answer has told this key, surely has this name."""
        return self._asked(key) == key

    async def now(self, key: str) -> Node | None:
        """The node of which an answer has told this key; of several names that are told so, the one that was
        changed last. None if there is none, or it can be neither asked for nor found in a listing.

        It takes a read; of a name that is not UTF-8, one of the whole folder.
        """
        if self.can_ask(key) or not self.can_read(key):
            return await self._source.node(key)
        try:
            folder = await self._source.node(self._asked(key))
        except LongFolder:
            return None
        named = [] if folder is None else [each for each in folder.nodes if each.key == key]
        return max(named, key=lambda each: each.modified_index, default=None)

    def _asked(self, key: str) -> str:
        """The key, or the deepest folder around it that can be asked for."""
        at = key.find(_UNREADABLE, len(self._folder))
        return key if at < 0 else key[: key.rindex("/", 0, at)] or "/"

    async def _node(self, witness: Witness) -> Node | None:
        """The node of the key, as it is; one of a name that is not UTF-8 only if it is as it was, as several
        names are told by the same key. None if there is none, or none can be read, as in a folder that is too
        long to be listed.
        """
        key = key_of(witness)
        if not self.can_read(key):
            return None
        asked = self._asked(key)
        try:
            node = await self._source.node(asked, quorum=True)
        except LongFolder:
            if asked == key:
                raise
            return None
        if node is None or asked == key:
            return node
        for each in node.nodes:
            index = each.created_index if witness.quiet else each.modified_index
            if each.key == key and index == witness.revision:
                return each
        return None

    async def _event(self, witness: Witness) -> Answer | None:
        """The first event from the index of the witness on, to which the source has come: of its key, or of
        the folder around it where the key cannot be asked for. A folder that was made for a key below it has
        no event but that of the key.

        None if there is none; the connection of the poll is closed then. V2Error 401 if it is forgotten.
        Unreachable if the poll is cut before that is known, or the member that answers has not come so far.
        """
        key, index = key_of(witness), witness.revision
        asked = self._asked(key)
        recursive = witness.quiet or asked != key
        async with self._source.poll(asked, index - 1, recursive=recursive) as poll:
            event = await poll.event(SURE_SECONDS)
        if event is None and (poll.etcd_index < index or not poll.timed_out):
            self._source.client.transport.endpoints.avoid(poll.endpoint)
            why = "it lags behind" if poll.timed_out else "it has ended a poll for an event that it has"
            raise Unreachable([(poll.endpoint, why)], outcome_known=True)
        return event


def key_of(witness: Witness) -> str:
    """The key as an answer tells it."""
    return bytes.fromhex(witness.key).decode(errors="replace")


def witness_of(node: Node, *, is_removal: bool = False) -> Witness:
    """Of the change that a node has its index of."""
    value = "" if is_removal else _digest(node)
    return Witness(node.key.encode().hex(), node.modified_index, node.created_index, digest=value)


def listed_witness(node: Node) -> Witness:
    """Of a node that is there, which may be refreshed, or updated if it is a folder, without an event."""
    if not node.dir and node.expiration is None:
        return witness_of(node)
    created = node.created_index
    value = _digest(node) if node.modified_index == created and not node.dir else ""
    return Witness(node.key.encode().hex(), created, created, digest=value, quiet=True)


def _is_shown(witness: Witness, node: Node) -> bool:
    """Whether a node shows a quiet witness by the index at which it was created."""
    return node.created_index == witness.revision and witness.digest in {"", _digest(node)}


def _is_created(witness: Witness, event: Answer) -> bool:
    """Whether an event shows that the node of a quiet witness was created, for itself or for one below it."""
    node = event.node
    is_first = node.modified_index == node.created_index and event.action not in REMOVALS
    return is_first and is_within(node.key, key_of(witness)) and _is_shown(witness, node)


def _is_same(witness: Witness, found: Witness) -> bool:
    """True, or Another, as the source has this in the place of the witness."""
    if found != witness:
        was = "changed" if witness.digest else "removed"
        raise Another(
            f"{key_of(witness)}, created at index {witness.created}, was {was} at index {witness.revision},"
            f" and in SOURCE it has another history: index {found.revision}, created at {found.created}"
        )
    return True


def _digest(node: Node) -> str:
    return digest(repr((node.dir, node.value)).encode())
