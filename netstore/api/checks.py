"""What health checks ask the member, shared by all checks that come at the same time, and their queries."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.admission import Admission
from netstore.api.http.percent import BadEscapeError, decode
from netstore.api.v2.form import MAX_PAIRS
from netstore.errors import Fault
from netstore.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable

    from netstore.net.exchange import Exchange
    from netstore.node.member import Member
    from netstore.seams import After, Alarm

MOST_CHECKS: Final = 250
"""Checks that may wait at the same time, of one principal half of them: they are answered in one piece of
work, about 2 ms. Others are answered at once with the last result.
"""

FRESH_SECONDS: Final = 0.5
"""How long a good answer may be used again."""


def query_values(query: bytes) -> dict[bytes, list[bytes]]:
    """The decoded pairs of a query, by name. Malformed pairs are ignored; of more than `MAX_PAIRS` all."""
    found: dict[bytes, list[bytes]] = {}
    if not query or query.count(b"&") >= MAX_PAIRS:
        return found
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        try:
            found.setdefault(decode(name), []).append(decode(value))
        except BadEscapeError:
            continue
    return found


class SharedQuestion:
    """A question to the member that is asked once at a time, and the checks that wait for the answer.

    Checks that arrive while it is asked share it. Each check waits for `seconds`. When too many wait, further
    checks are answered with the last result, until the question under way is late: many checks do not make a
    healthy member look unhealthy.

    A check that takes a fresh answer is answered with a good one for `FRESH_SECONDS` after that came.
    """

    def __init__(
        self,
        member: Member,
        after: After,
        seconds: float,
        what: str,
        ask: Callable[[Callable[[object], None]], object],
    ) -> None:
        """`ask` asks and calls its argument once with a Fault, or with anything else for a good answer.
        `what` names in words what is waited for, as "the log".
        """
        self._member = member
        self._after = after
        self._seconds = seconds
        self._ask = ask
        self._admission = Admission(MOST_CHECKS)
        self._asked: _Asked | None = None
        """The question that is under way."""
        self._is_fresh = False
        self._late_text = f"{what} takes longer than {seconds:g} s"
        self._found = f"no read through {what} has come back yet"
        """The last result: why the member was not well; empty if it was."""

    def put(self, exchange: Exchange, answer: Callable[[str], None], *, takes_fresh: bool = False) -> None:
        """Call `answer` once with the reason why the member is not well, empty if it is; never if the client
        is gone before.
        """
        if takes_fresh and self._is_fresh:
            answer("")
            return
        if not self._admission.enter(exchange.principal):
            answer(self._explained(self._found))
            return
        check = _Check(exchange, self._admission, lambda reason: answer(self._explained(reason)))
        check.deadline = self._after(self._seconds, partial(check.finish, self._late_text))
        if self._asked is not None:
            self._asked.join(check)
            return
        self._asked = asked = _Asked()
        asked.join(check)
        asked.deadline = self._after(self._seconds, self._late)
        try:
            self._ask(partial(self._done, asked))
        except Exception:  # out of memory: there will be no outcome, so nobody may wait for it
            self._asked = None
            asked.deadline.cancel()
            raise

    def _done(self, asked: _Asked, outcome: object) -> None:
        if asked.deadline is not None:
            asked.deadline.cancel()
        if self._asked is asked:
            self._asked = None
        fault = outcome if isinstance(outcome, Fault) else None
        reason = "" if fault is None else fault.cause.decode("utf-8", "replace") or fault.message
        self._found = reason
        if reason:
            self._is_fresh = False
        elif not self._is_fresh:
            self._after(FRESH_SECONDS, self._grow_old)
            self._is_fresh = True
        asked.answer(self._member.hub.failed, reason)

    def _grow_old(self) -> None:
        self._is_fresh = False

    def _late(self) -> None:
        """The question under way takes too long."""
        self._found = self._late_text

    def _explained(self, reason: str) -> str:
        """The reason why the member is not well, replaced by its own problems if it has any."""
        return ("; ".join(self._member.problems()) or reason) if reason else ""


class _Asked:
    """A question under way, with the checks that wait for it."""

    def __init__(self) -> None:
        self.deadline: Alarm | None = None
        self._checks: dict[_Check, None] = {}

    def join(self, check: _Check) -> None:
        """Add a check."""
        self._checks[check] = None
        check.among = self._checks

    def answer(self, failed: Callable[[Exception], object], reason: str) -> None:
        """It is answered: answer all checks, even if answering one of them raises."""
        for check in list(self._checks):
            guarded(failed, check.finish, reason)


class _Check:
    """One check that waits."""

    def __init__(self, exchange: Exchange, admission: Admission, answer: Callable[[str], None]) -> None:
        self._principal = exchange.principal
        self._admission = admission
        self._answer = answer
        self.among: dict[_Check, None] = {}
        self.deadline: Alarm | None = None
        exchange.on_gone(self._forget)

    def finish(self, reason: str) -> None:
        """Answer once; `reason` is why the member is not well."""
        if self in self.among:
            self._forget()
            self._answer(reason)

    def _forget(self) -> None:
        if self in self.among:
            del self.among[self]
            self._admission.leave(self._principal)
        if self.deadline is not None:
            self.deadline.cancel()
