"""Answers that several calls share: lists that are made once, for all who ask for them at the same time.

The memory that a list takes is charged as it grows (`SharedAnswers.grow`), before it is made: to one
household (`admission.household`) while it is made, and to each household that it is sent to. Callers that
have no room for more are refused; if no caller has room, the rest of the list is not made.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore import codes, errors
from netstore.admission import Admission, household
from netstore.api.v3.delivery import Delivery, refuse_too_long
from netstore.api.v3.status import refuse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from netstore.api.v3.delivery import Deliveries
    from netstore.net.grpc.protocols import Call
    from netstore.node.member import Member

_NO_ROOM: Final = (
    "etcdserver: the list is larger than the {} bytes that one client gets of memory_budget (3/64 of it):"
    " raise memory_budget, or ask for less"
)


class SharedPieces:
    """The part that is the same in several answers, in pieces of moderate size. It does not change any more
    once it is sent. `SharedAnswers` keeps the account of its memory.
    """

    __slots__ = ("candidates", "charged_to", "held", "holders", "pieces", "refused", "size", "wanted")

    def __init__(self, principals: Iterable[str]) -> None:
        """It is made for these principals, those who wait longest first. O(1)."""
        self.pieces: list[bytes] = []
        self.size = 0
        """Bytes of the pieces."""
        self.held = 0
        """Bytes that are charged."""
        self.wanted = 0
        """Bytes that would have been charged in all after the last request for more."""
        self.candidates: Iterator[str] = map(household, principals)
        """Households to charge when those before them have no room."""
        self.charged_to = next(self.candidates, None)
        """The household that is charged while the list is made; None if none had room."""
        self.refused: set[str] = set()
        """Households that had no room."""
        self.holders: dict[str, int] = {}
        """Number of calls that it is being sent to, by household."""

    def add(self, piece: bytes) -> None:
        """Append a piece, the memory of which is charged already."""
        self.pieces.append(piece)
        self.size += len(piece)


class SharedAnswers:
    """Charges the memory of shared lists, and sends them. Their memory is part of the budget of reads,
    counted once; each household is charged for all lists that it makes or is sent.
    """

    def __init__(self, member: Member, deliveries: Deliveries) -> None:
        self._member = member
        self._deliveries = deliveries
        self._held = Admission(member.machine.mvcc.read_budget.limit)

    def grow(self, pieces: SharedPieces, size: int) -> bool:
        """Charge this many bytes more, or fewer if negative, for making pieces; called before they are made.

        The household that is charged is replaced by the next candidate if it has no room, and its calls are
        not sent the pieces. False if none has room: then nothing is charged. O(1) for each waiting call,
        once.
        """
        if size <= 0:
            self._add(pieces, size)
            return pieces.charged_to is not None
        mvcc = self._member.machine.mvcc
        budget = mvcc.read_budget
        pieces.wanted = pieces.held + size
        if budget.used + size > budget.limit:
            mvcc.clear_parts()
        if budget.used + size > budget.limit:
            self._drop_charged(pieces)
            return False
        if pieces.charged_to is not None and self._held.enter(pieces.charged_to, size):
            budget.add(size)
            pieces.held += size
            return True
        whole = pieces.held + size
        self._drop_charged(pieces)
        for owner in pieces.candidates:
            if owner not in pieces.refused and self._held.enter(owner, whole):
                budget.add(whole)
                pieces.charged_to, pieces.held = owner, whole
                return True
            pieces.refused.add(owner)
        return False

    def _add(self, pieces: SharedPieces, size: int) -> None:
        """Charge the household `size` bytes, which is negative."""
        if size and pieces.charged_to is not None:
            self._held.leave(pieces.charged_to, -size)
            self._member.machine.mvcc.read_budget.add(size)
            pieces.held += size

    def _drop_charged(self, pieces: SharedPieces) -> None:
        if pieces.charged_to is not None:
            pieces.refused.add(pieces.charged_to)
            self._add(pieces, -pieces.held)
            pieces.charged_to = None

    def made(self, pieces: SharedPieces) -> None:
        """The pieces are complete, and sent to no further call. May be called again. O(1)."""
        charged_to, pieces.charged_to, pieces.candidates = pieces.charged_to, None, iter(())
        if charged_to is not None and charged_to not in pieces.holders:
            self._leave(charged_to, pieces)

    def _leave(self, owner: str, pieces: SharedPieces) -> None:
        """A household does not hold the pieces any more."""
        if pieces.held:
            self._held.leave(owner, pieces.held)
        if not pieces.holders and pieces.charged_to is None:
            self._member.machine.mvcc.read_budget.add(-pieces.held)

    def send(self, call: Call, head: bytes, pieces: SharedPieces) -> None:
        """Answer a call with `head` and then the pieces, in steps, or refuse it if there is no room. To be
        called after the last piece was added and before `made`. O(1). An exception ends this call only
        (`Call.guard`).
        """
        call.guard(partial(self._send, call, head, pieces))

    def _send(self, call: Call, head: bytes, pieces: SharedPieces) -> None:
        size = len(head) + pieces.size
        if refuse_too_long(call, size) or not call.open:
            return
        delivery = _SharedDelivery(self, self._deliveries, self._member, call, head, pieces)
        if not self._hold(call.principal, pieces):
            self._refuse(call, pieces)
            return
        try:
            self._deliveries.add(delivery)
        except Exception:
            self.delivered(call.principal, pieces)
            raise
        try:
            fault = self._member.jobs.start(call.principal, delivery)
            if fault is None:
                call.on_cancelled(delivery.close)
                call.begin_reply(size)
        except Exception:
            delivery.close()
            raise
        if fault is not None:
            delivery.give_up(fault)

    def _refuse(self, call: Call, pieces: SharedPieces) -> None:
        """There is no room: because there never is for so much, or because others hold it now."""
        most = self._held.most_of_one
        if pieces.wanted > most:
            call.finish(codes.RESOURCE_EXHAUSTED, _NO_ROOM.format(most))
        else:
            refuse(call, errors.too_many())

    def _hold(self, principal: str, pieces: SharedPieces) -> bool:
        """Charge the household of one more call that is sent the pieces; False if it has no room."""
        owner, holders = household(principal), pieces.holders
        if owner != pieces.charged_to and owner not in holders:
            if pieces.charged_to is None or owner in pieces.refused:
                return False
            if pieces.held and not self._held.enter(owner, pieces.held):
                return False
        holders[owner] = holders.get(owner, 0) + 1
        return True

    def delivered(self, principal: str, pieces: SharedPieces) -> None:
        """The delivery to a call of this principal is over."""
        owner, holders = household(principal), pieces.holders
        holders[owner] -= 1
        if not holders[owner]:
            del holders[owner]
            if owner != pieces.charged_to:
                self._leave(owner, pieces)


class _SharedDelivery(Delivery):
    """Sends a head of its own and shared pieces, one in each step."""

    __slots__ = ("_head", "_pieces", "_sent", "_shared")

    def __init__(  # noqa: PLR0917 - made in one place only
        self,
        shared: SharedAnswers,
        deliveries: Deliveries,
        member: Member,
        call: Call,
        head: bytes,
        pieces: SharedPieces,
    ) -> None:
        super().__init__(deliveries, member, call)
        self._shared = shared
        self._head = head
        self._pieces = pieces
        self._sent = 0
        """How many pieces were sent."""

    def step(self) -> bool:
        """See `node.jobs.Job`."""
        if self._room() <= 0:
            return False
        if self._head:
            self._call.push(self._head)
            self._head = b""
        pieces = self._pieces.pieces
        if self._sent < len(pieces):
            piece = pieces[self._sent]
            self._sent += 1
            self._call.push(piece)
            self.pace.take(len(piece))
        if self._sent < len(pieces):
            return False
        self._call.end_reply()
        self.close()
        return True

    def _release(self) -> None:
        self._shared.delivered(self.principal, self._pieces)
