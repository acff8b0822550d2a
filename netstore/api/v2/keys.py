"""`/v2/keys`: a request becomes a command, a read or a watch, and their outcome the answer (v2 API, sections
1 to 9).

The order in which requests are checked is part of the protocol: the path, the method, the syntax of form and
query, the values of the parameters, and last the state of the store.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.api.http.responses import method_allowed
from netstore.api.v2 import form, operations
from netstore.api.v2.delivery import Deliveries
from netstore.api.v2.eventlines import EventLine, EventLines
from netstore.api.v2.form import NONE_GIVEN, Parameters, parameters_of
from netstore.api.v2.formreader import FormReaders
from netstore.api.v2.listing import listing_parts
from netstore.api.v2.paths import key_of
from netstore.api.v2.render import (
    PIECE_BYTES,
    Part,
    Renderer,
    Rendering,
    is_small,
    plain_line,
    rendered_work,
)
from netstore.errors import Fault, failed
from netstore.node.lessor import Renewals
from netstore.state.commands import Command, encode
from netstore.state.v2 import commands as v2
from netstore.state.v2.tree import SMALL_BYTES
from netstore.state.v2.walk import MOST_WALKS, Walk
from netstore.types import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.api.gate import Gate
    from netstore.api.networks import NetworkWrites
    from netstore.net.exchange import Exchange
    from netstore.node.member import Member
    from netstore.state.countdown import Countdown
    from netstore.state.machine import Outcome
    from netstore.types import EtcdIndex, NodeView

ALLOWED: Final = b"HEAD,GET,PUT,POST,DELETE"

_CACHED: Final = 16384
"""Size of the caches of decoded paths and of decoded queries. A full cache is cleared."""
_CACHED_BYTES: Final = 512
"""Longer paths and queries are not cached."""
AT_ONCE_WORK: Final = 4_500_000
"""Work of rendering an answer (`render.Part`) that is done in one call, give or take one part: about 4 ms.
This is enough for 1.5 MB of plain text in any language; an answer that is more work is delivered in steps.
"""

WORK_PER_UNIT: Final = 1_000
"""Work of rendering that counts as a unit of work of the member's turn, in which most answers are made."""

MOST_HELD: Final = 64 * 1024 * 1024
"""Bytes of values that answers delivered in steps hold until they are rendered."""

_WATCHER_WORK: Final = 6_000
"""Work of rendering that takes as long as sending an event to one watcher."""
_CREATING: Final = frozenset({"create", "set"})
"""Actions that answer with 201 if there was no node before."""

_NO_TTL: Final = (0, 0)
_LITTLE_BYTES: Final = 512
"""Rendering a body of up to this size is not counted as work: it takes at most 5 us."""
_NO_STEPS: Final[Iterator[float]] = iter(())
_NO_OUTCOME: Final = Fault(300, b"the command has no outcome to tell")


class KeysApi:
    """Handles every request below `/v2/keys` of one member. Plain calls on the loop."""

    def __init__(
        self,
        member: Member,
        countdown: Countdown[bytes],
        gate: Gate,
        networks: NetworkWrites | None = None,
    ) -> None:
        """`countdown` gives the remaining time of nodes. `networks` checks what is written to some keys."""
        self._member = member
        self._networks = networks
        self._network_keys = frozenset[bytes]() if networks is None else networks.keys
        self._gate = gate
        self._machine = member.machine
        self._hub = member.hub
        self._render = Renderer(member.cluster_id, self._left)
        self._countdown = countdown
        self._timed = member.machine.tree.timed
        self._statistics = member.machine.statistics
        self._methods: dict[bytes, Callable[[Exchange, bytes, Parameters], None]] = {
            b"GET": self._get,
            b"HEAD": self._read,
            b"PUT": self._put,
            b"POST": self._post,
            b"DELETE": self._delete,
        }
        self._form_readers = FormReaders(member.jobs)
        self._listings = Deliveries(member.jobs, member.clock, MOST_WALKS)
        self._large = Deliveries(member.jobs, member.clock, MOST_HELD)
        member.hub.prepare = self._prepare
        self._paths: dict[bytes, bytes] = {}
        self._queries: dict[bytes, Parameters] = {b"": NONE_GIVEN}
        self._lines = EventLines()
        self._published: tuple[Event | None, list[bytes]] = (None, [])
        """The last event sent to watchers, and its line."""
        self.renewing: Renewals[bytes] = Renewals()
        """Keys whose TTL may be set or renewed by a write that this member has proposed and that has no
        outcome yet (`node.lessor.Lessor.renewing_nodes`).
        """

    def handle(self, exchange: Exchange) -> None:
        """Answer the request, now or later. OPTIONS, and paths that are malformed or not clean, do not get
        past the router.
        """
        request = exchange.request
        method = request.method
        if method not in self._methods and not method_allowed(exchange, ALLOWED):
            return
        try:
            key = self._paths.get(request.path) or self._key(request.path)
            if method == b"GET":
                parameters = self._queries.get(request.query) or self._query(exchange)
            elif len(request.body) > form.PIECE_BYTES:
                self._form_readers.begin(exchange, partial(self._form_read, exchange, key))
                return
            else:
                parameters = parameters_of(request)
        except Fault as fault:
            self._refuse(exchange, fault)
            return
        self._carry_out(exchange, key, parameters)

    def _form_read(self, exchange: Exchange, key: bytes, outcome: Parameters | Fault) -> None:
        if isinstance(outcome, Fault):
            self._refuse(exchange, outcome)
        else:
            self._carry_out(exchange, key, outcome)

    def _carry_out(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        if self._gate.policy is not None:
            operation = operations.keys(exchange.request, key, parameters)
            fault = self._gate.check(operation, exchange.principal)
            if fault is not None:
                self._refuse(exchange, fault)
                return
        # etcd reads the state of authentication from its store at each request, and counts that read.
        self._statistics.gets_fail += 1
        self._methods[exchange.request.method](exchange, key, parameters)

    # --- decoding

    def _key(self, path: bytes) -> bytes:
        """The key that a request path names; raises Fault for one that is too deep."""
        key = key_of(path)
        if len(path) <= _CACHED_BYTES:
            if len(self._paths) >= _CACHED:
                self._paths.clear()
            self._paths[path] = key
        return key

    def _query(self, exchange: Exchange) -> Parameters:
        """The parameters in the query of a GET."""
        query = exchange.request.query
        parameters = parameters_of(exchange.request)
        if len(query) <= _CACHED_BYTES:
            if len(self._queries) >= _CACHED:
                self._queries.clear()
            self._queries[query] = parameters
        return parameters

    # --- methods

    def _get(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        if parameters.quorum:
            self._propose(exchange, v2.QuorumGet(key, parameters.recursive))
        elif parameters.wait:
            self._watch(exchange, key, parameters)
        else:
            self._answer(exchange, False, self._machine.v2.look(key, parameters.recursive))

    def _read(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        self._answer(exchange, False, self._machine.v2.look(key, parameters.recursive))

    def _put(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        value, refresh, prev_exist = parameters.value, parameters.refresh, parameters.prev_exist
        expires = ttl = 0
        if parameters.ttl is not None:
            expires, ttl = self._expiry(parameters.ttl)
        command: v2.Create | v2.CompareAndSwap | v2.Update | v2.Set
        if prev_exist is False:
            command = v2.Create(key, value, parameters.dir, expires, ttl)
        elif parameters.prev_index or parameters.prev_value:
            command = v2.CompareAndSwap(
                key, value, parameters.prev_value, parameters.prev_index, expires, refresh, ttl
            )
        elif prev_exist:
            command = v2.Update(key, value, expires, refresh, ttl)
        else:
            command = v2.Set(key, value, parameters.dir, expires, refresh, ttl)
        renewed = b""
        # With prevExist=false the write fails if there is a node, so it renews nothing.
        if prev_exist is not False and (ttl or refresh or self._timed.get(key) is not None):
            renewed = key
        if key in self._network_keys and _sets_value(command):
            propose = partial(self._propose, exchange, command, parameters.no_value, renewed)
            self._check_network(exchange, key, value, propose)
        else:
            self._propose(exchange, command, parameters.no_value, renewed)

    def _check_network(self, exchange: Exchange, key: bytes, value: bytes, write: Callable[[], None]) -> None:
        """Write the config of a network, if it is one."""

        def checked(fault: Fault | None) -> None:
            if fault is None:
                write()
            else:
                self._refuse(exchange, replace(fault, index=self._machine.tree.index))

        assert self._networks is not None  # noqa: S101 - it named the key; for the type checker
        self._networks.check([(key, value)], checked)

    def _post(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        expires, ttl = _NO_TTL if parameters.ttl is None else self._expiry(parameters.ttl)
        command = v2.InOrder(key, parameters.value, parameters.dir, expires, ttl)
        self._propose(exchange, command, parameters.no_value)

    def _delete(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        if parameters.prev_index or parameters.prev_value:
            self._propose(exchange, v2.CompareAndDelete(key, parameters.prev_value, parameters.prev_index))
        else:
            self._propose(exchange, v2.Delete(key, parameters.dir, parameters.recursive))

    def _expiry(self, ttl: int) -> tuple[int, int]:
        """When a given TTL expires, and its seconds."""
        return v2.expiry(self._member.clock.wall(), ttl), min(ttl, v2.LONGEST_TTL)

    def _propose(
        self, exchange: Exchange, command: Command, no_value: bool = False, renews: bytes = b""
    ) -> None:
        """`renews` is the key whose TTL may be renewed. Until the command has an outcome this member does not
        propose the expiry of the key, which would overtake the command if that waits.
        """
        done: Callable[[Outcome], None] = partial(self._answer, exchange, no_value)
        traceparent = exchange.request.traceparent
        if traceparent is not None:
            done = partial(self._traced, traceparent, done)
        principal = exchange.principal.encode()
        if renews:
            self.renewing.propose(self._member, renews, command, done, principal)
        else:
            self._member.propose(encode(command), done, principal)

    # --- answers

    def _traced(self, traceparent: bytes, done: Callable[[Outcome], None], outcome: Outcome) -> None:
        """Name the trace of the request while it is answered, in case it is slow."""
        slowness = self._member.slowness
        slowness.traceparent = traceparent
        done(outcome)
        if slowness.spent is None:
            slowness.traceparent = None

    def _left(self, view: NodeView) -> float:
        """The seconds until a node expires, by this member's monotonic clock. Only for a TTL that is over, of
        which nothing is known any more, it is computed from the wall clock.
        """
        clock = self._member.clock
        left = self._countdown.left_since(view.key, self._machine.tree.begun(view), clock.monotonic())
        return max(0.0, (view.expires - clock.wall()) / 1e9) if left is None else left

    def _answer(self, exchange: Exchange, no_value: bool, outcome: Outcome) -> None:
        if type(outcome) is Event:
            member = self._member
            status = 201 if outcome.prev is None and outcome.action in _CREATING else 200
            # `success_fields`, without a call
            fields = self._render.success % (outcome.index, member.commit_index, member.term)
            if no_value:
                exchange.respond(status, fields, self._render.action(outcome))
            elif (line := plain_line(outcome)) is not None:
                if len(line) > _LITTLE_BYTES:
                    self._machine.applying.worked += len(line) // WORK_PER_UNIT
                exchange.respond(status, fields, line)
            elif is_small(outcome):
                body = self._render.event(outcome)
                if len(body) > _LITTLE_BYTES:
                    self._machine.applying.worked += rendered_work(body, outcome.size) // WORK_PER_UNIT
                exchange.respond(status, fields, body)
            else:
                parts, size = self._parts(outcome), _held(outcome)
                self._send(exchange, status, fields, parts, size, done=outcome.action != "get")
        elif isinstance(outcome, Walk):
            rendering = Rendering(listing_parts(outcome, self._render))
            fault = self._listings.begin(exchange, 200, self._fields(outcome.index), rendering)
            if fault is not None:
                self._refuse(exchange, fault)
        else:
            self._listings.cut_slow()  # they may be the reason why there is no room for one more
            self._refuse(exchange, outcome if isinstance(outcome, Fault) else _NO_OUTCOME)

    def _parts(self, event: Event) -> Iterator[Part]:
        """A large event in parts, which are kept for watchers if there are any."""
        parts = self._render.event_parts(event)
        if event.action == "get":
            return parts
        if not self._hub.count:
            self._lines.take(event)
            return parts
        line = self._lines.share(event, parts)
        return parts if line is None else line.read()

    def _send(
        self,
        exchange: Exchange,
        status: int,
        fields: bytes,
        parts: Iterator[Part],
        size: int,
        *,
        done: bool = False,
        endless: bool = False,
        stays_open: bool = False,
    ) -> None:
        """Send an answer that may be long and holds `size` bytes: at once if rendering it is little work,
        else in steps. If there is too much other work it is refused; if it is for a write that was `done`,
        the fault says that the answer could not be made. `endless` and `stays_open` are for watches
        (`Deliveries.begin`).
        """
        rendering = Rendering(parts)
        body = rendering.more(AT_ONCE_WORK)
        self._machine.applying.worked += rendering.worked // WORK_PER_UNIT
        if not rendering.over:
            fault = self._large.begin(
                exchange,
                status,
                fields,
                rendering,
                ready=body,
                size=size,
                endless=endless,
                stays_open=stays_open,
            )
            if fault is not None:
                self._refuse(exchange, failed() if done else fault)
        elif endless:
            exchange.begin(status, fields)
            exchange.push(body)
            if not stays_open:
                exchange.end()
        else:
            exchange.respond(status, fields, body)

    def _refuse(self, exchange: Exchange, fault: Fault) -> None:
        status, fields = fault.http_status, self._render.fault_fields(fault)
        if len(fault.cause) <= PIECE_BYTES:
            body = self._render.fault(fault)
            if len(body) > _LITTLE_BYTES:
                self._machine.applying.worked += rendered_work(body, len(fault.cause)) // WORK_PER_UNIT
            exchange.respond(status, fields, body)
        else:
            self._send(exchange, status, fields, self._render.fault_parts(fault), len(fault.cause))

    def _fields(self, index: EtcdIndex) -> bytes:
        member = self._member
        return self._render.success_fields(index, member.commit_index, member.term)

    # --- watches

    def _watch(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        """Serve a watch: with a match in the event window if there is one, else from the next match on.

        A stream with a match in the window gets that event and then nothing, while its body stays open, as
        with etcd. If there is too much other work to render the event, the watch is refused.
        """
        now = self._machine.tree.index
        since = parameters.wait_index or now + 1
        found = self._machine.history.scan(key, parameters.recursive, since)
        if isinstance(found, Fault):
            self._refuse(exchange, found)
            return
        if found is not None:
            parts = self._render.event_parts(found, past=True)
            self._send(
                exchange,
                200,
                self._fields(now),
                parts,
                _held(found),
                endless=True,
                stays_open=parameters.stream,
            )
            return
        exchange.begin(200, self._fields(now))
        deliver = partial(self._deliver, exchange, parameters.stream)
        watcher = self._hub.watch(key, parameters.recursive, parameters.stream, since, deliver)
        exchange.on_gone(watcher.remove)

    def _prepare(self, event: Event) -> Iterator[float]:
        """See `Hub.prepare`: render a large event, as far as that was not done for its answer."""
        line = self._lines.take(event)
        if is_small(event):
            return _NO_STEPS
        return self._make(line or EventLine(event, self._render.event_parts(event)))

    def _make(self, line: EventLine) -> Iterator[float]:
        """Render the rest of a line, or all of it again if rendering it for its answer raised."""
        for work in line.make():
            yield work / _WATCHER_WORK
        if line.failed:
            line = EventLine(line.event, self._render.event_parts(line.event))
            for work in line.make():
                yield work / _WATCHER_WORK
        self._published = (line.event, line.made)

    def _deliver(self, exchange: Exchange, stream: bool, event: Event | None) -> bool:
        """Send an event to a watcher; None ends the body. False if the connection is gone, or so far behind
        that its buffer is full.
        """
        if event is None:
            exchange.end()
            return False
        taken = exchange.push(*self._line(event))
        if not stream or not taken:
            exchange.end()
        return taken

    def _line(self, event: Event) -> list[bytes]:
        """The event as one line of JSON, in parts. All watchers share the same bytes."""
        event_before, line = self._published
        if event_before is not event:
            line = [self._render.event(event)]
            self._published = (event, line)
        return line


def _sets_value(command: v2.Create | v2.CompareAndSwap | v2.Update | v2.Set) -> bool:
    """Whether a command may give a file the value that it carries."""
    makes_directory = isinstance(command, v2.Create | v2.Set) and command.dir
    return not makes_directory and (isinstance(command, v2.Create) or not command.refresh)


def _held(event: Event) -> int:
    """Upper bound of the bytes of values that an event holds."""
    return event.size + (SMALL_BYTES if event.node.nodes else 0)
