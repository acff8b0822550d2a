"""`/livez` and `/readyz`, with a path below for each of their checks, as in etcd from 3.5.11 on.

| Check | Of | Fails |
| --- | --- | --- |
| `data_corruption` | `/readyz` | while the alarm CORRUPT is raised, or states differ (`Member.differing`) |
| `serializable_read` | both | never: who answers can read what it has |
| `linearizable_read` | `/readyz` | without a leader that a majority confirms |
| `non_learner` | `/readyz` | while this member is a learner |

The alarm NOSPACE fails none of them: a member that takes no writes still serves reads and deletions, and a
restart would not free space. So does a disk that takes no writes, as long as a majority confirms the leader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from netstore.api.checks import SharedQuestion, query_values
from netstore.api.health import raised_alarms
from netstore.api.http.responses import NOSNIFF, method_allowed
from netstore.net.exchange import PLAIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from netstore.net.exchange import Exchange
    from netstore.node.member import Replica
    from netstore.seams import After

READ_SECONDS: Final = 5.0
"""Time limit of the read that `/readyz` makes."""

_CORRUPTION: Final = "data_corruption"
_LOCAL: Final = "serializable_read"
_READ: Final = "linearizable_read"
_LEARNER: Final = "non_learner"

CHECKS: Final = {"/livez": (_LOCAL,), "/readyz": (_CORRUPTION, _LOCAL, _READ, _LEARNER)}
"""Path -> the names of its checks, in the order in which they are told."""


class Probes:
    """The checks of one member."""

    def __init__(self, member: Replica, after: After) -> None:
        self._member = member
        self._read = SharedQuestion(member, after, READ_SECONDS, "a majority", member.read)

    def handlers(self) -> Iterator[tuple[bytes, Probe]]:
        """Each path and its handler."""
        for path, names in CHECKS.items():
            yield path.encode(), Probe(self, names, excludes=True)
            for name in names:
                yield f"{path}/{name}".encode(), Probe(self, (name,), excludes=False)

    def run(self, exchange: Exchange, names: Sequence[str], *, verbose: bool) -> None:
        """Run these checks and answer."""
        if _READ in names:
            self._read.put(exchange, lambda reason: self._tell(exchange, names, reason, verbose=verbose))
        else:
            self._tell(exchange, names, "", verbose=verbose)

    def _tell(self, exchange: Exchange, names: Sequence[str], unread: str, *, verbose: bool) -> None:
        """Answer; `unread` says why the linearizable read failed, empty if it did not. What failed is always
        told, with what did not beside it.
        """
        failed = {name: why for name in names if (why := self._failure(name, unread))}
        lines = "".join(
            f"[-]{name} failed: {failed[name]}\n" if name in failed else f"[+]{name} ok\n" for name in names
        )
        if failed:
            exchange.respond(503, PLAIN + NOSNIFF, f"{lines}\n".encode())
        else:
            exchange.respond(200, PLAIN + NOSNIFF, f"{lines if verbose else ''}ok\n".encode())

    def _failure(self, name: str, unread: str) -> str:
        """Why a check failed; empty if it did not."""
        if name == _CORRUPTION and "CORRUPT" in raised_alarms(self._member):
            return "alarm activated: CORRUPT"
        if name == _CORRUPTION:
            return self._member.differing
        if name == _LEARNER:
            own = self._member.machine.members.get(self._member.id)
            return "not supported for learner" if own is not None and own.learner else ""
        return unread if name == _READ else ""


class Probe:
    """Answers one path. `?verbose` has the checks told that did not fail; with `excludes` each `exclude` in
    the query names a check that is left out, and names that there are not mean nothing.
    """

    def __init__(self, probes: Probes, names: tuple[str, ...], *, excludes: bool) -> None:
        self._probes = probes
        self._names = names
        self._excludes = excludes

    def __call__(self, exchange: Exchange) -> None:
        if not method_allowed(exchange, b"GET"):
            return
        query = query_values(exchange.request.query)
        excluded = query.get(b"exclude", ()) if self._excludes else ()
        names = [name for name in self._names if name.encode() not in excluded]
        self._probes.run(exchange, names, verbose=b"verbose" in query)
