"""`/v2/keys`: from a request to a command, a read or a watch, and from their outcome to the answer (v2 API,
sections 1 to 9).

The order of what is refused is part of the protocol: a path that must be cleaned, the method, form and query
syntax, the values of the parameters, and last what the store says.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from netstore.api.router import method_allowed
from netstore.api.v2.form import NONE_GIVEN, Parameters, parameters_of
from netstore.api.v2.listing import Listings
from netstore.api.v2.paths import check_depth
from netstore.api.v2.percent import decode
from netstore.api.v2.render import Renderer
from netstore.errors import Fault
from netstore.state import commands
from netstore.state.walk import Walk
from netstore.types import Event

if TYPE_CHECKING:
    from netstore.net.exchange import Exchange
    from netstore.node.member import Member
    from netstore.state.machine import Outcome
    from netstore.types import EtcdIndex, Nanos

PREFIX: Final = b"/v2/keys"
ALLOWED: Final = b"HEAD,GET,PUT,POST,DELETE"
_METHODS: Final = frozenset(ALLOWED.split(b","))

_REMEMBERED: Final = 16384
"""Paths and queries whose meaning is kept.

Beyond that many the memory starts anew, so a scan of the key space cannot fill it.
"""
_REMEMBERED_BYTES: Final = 512
"""Longer ones are worked out each time."""
_NO_OUTCOME: Final = Fault(300, b"the command has no outcome to tell")


class KeysApi:
    """Answers every request below `/v2/keys` for one member. Plain calls on the loop."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._machine = member.machine
        self._hub = member.hub
        self._render = Renderer(member.cluster_id, member.clock)
        self._listings = Listings(self._render, member.jobs, member.clock)
        self._paths: dict[bytes, bytes] = {}
        self._queries: dict[bytes, Parameters] = {b"": NONE_GIVEN}
        self._shown: tuple[Event | None, bytes] = (None, b"")

    def handle(self, exchange: Exchange) -> None:
        """Answer the request now, or as soon as what it waits for has happened.

        The router has seen to OPTIONS and to paths that are malformed or unclean.
        """
        request = exchange.request
        method = request.method
        if method not in _METHODS and not method_allowed(exchange, ALLOWED):
            return
        try:
            key = self._paths.get(request.path) or self._key(request.path)
            if method == b"GET":
                parameters = self._queries.get(request.query) or self._query(exchange)
            else:
                parameters = parameters_of(request)
        except Fault as fault:
            self._refuse(exchange, fault)
            return
        # etcd asks its store for the state of authentication at each request, and counts it as a read.
        self._machine.statistics.gets_fail += 1
        if method == b"GET":
            self._get(exchange, key, parameters)
        elif method == b"PUT":
            self._put(exchange, key, parameters)
        elif method == b"DELETE":
            self._delete(exchange, key, parameters)
        elif method == b"POST":
            self._post(exchange, key, parameters)
        else:
            self._read(exchange, key, parameters)

    # What was asked

    def _key(self, path: bytes) -> bytes:
        """The key a request path names; raises the Fault of one that is too deep."""
        key = decode(path)[len(PREFIX) :].removesuffix(b"/") or b"/"
        check_depth(key)
        if len(path) <= _REMEMBERED_BYTES:
            if len(self._paths) >= _REMEMBERED:
                self._paths.clear()
            self._paths[path] = key
        return key

    def _query(self, exchange: Exchange) -> Parameters:
        """The meaning of a GET's query."""
        query = exchange.request.query
        parameters = parameters_of(exchange.request)
        if len(query) <= _REMEMBERED_BYTES:
            if len(self._queries) >= _REMEMBERED:
                self._queries.clear()
            self._queries[query] = parameters
        return parameters

    # Verbs

    def _get(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        if parameters.quorum:
            self._propose(exchange, commands.QuorumGet(key, parameters.recursive))
        elif parameters.wait:
            self._watch(exchange, key, parameters)
        else:
            self._read(exchange, key, parameters)

    def _read(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        self._answer(exchange, False, self._machine.look(key, parameters.recursive))

    def _put(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        value, refresh, ttl = parameters.value, parameters.refresh, _seconds(parameters)
        expires = self._expires(parameters)
        conditional = parameters.prev_index or parameters.prev_value
        command: commands.Command
        if parameters.prev_exist is False:
            command = commands.Create(key, value, parameters.dir, expires, ttl)
        elif conditional:
            command = commands.CompareAndSwap(
                key, value, parameters.prev_value, parameters.prev_index, expires, refresh, ttl
            )
        elif parameters.prev_exist:
            command = commands.Update(key, value, expires, refresh, ttl)
        else:
            command = commands.Set(key, value, parameters.dir, expires, refresh, ttl)
        self._propose(exchange, command, parameters.no_value)

    def _post(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        expires, ttl = self._expires(parameters), _seconds(parameters)
        command = commands.InOrder(key, parameters.value, parameters.dir, expires, ttl)
        self._propose(exchange, command, parameters.no_value)

    def _delete(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        if parameters.prev_index or parameters.prev_value:
            self._propose(
                exchange, commands.CompareAndDelete(key, parameters.prev_value, parameters.prev_index)
            )
        else:
            self._propose(exchange, commands.Delete(key, parameters.dir, parameters.recursive))

    def _expires(self, parameters: Parameters) -> Nanos | int:
        ttl = parameters.ttl
        return 0 if ttl is None else commands.expiry(self._member.clock.wall(), ttl)

    def _propose(self, exchange: Exchange, command: commands.Command, no_value: bool = False) -> None:
        self._member.propose(
            commands.encode(command), partial(self._answer, exchange, no_value), exchange.principal.encode()
        )

    # Answers

    def _answer(self, exchange: Exchange, no_value: bool, outcome: Outcome) -> None:
        if isinstance(outcome, Walk):
            self._listings.begin(exchange, outcome, self._fields(outcome.index))
            return
        if not isinstance(outcome, Event):
            self._listings.cut_the_slow()  # they may be why there is too much for one more
            self._refuse(exchange, outcome if isinstance(outcome, Fault) else _NO_OUTCOME)
            return
        action = outcome.action
        created = action == "create" or (action == "set" and outcome.prev is None)
        body = self._render.action(outcome) if no_value else self._render.event(outcome)
        exchange.respond(201 if created else 200, self._fields(outcome.index), body)

    def _refuse(self, exchange: Exchange, fault: Fault) -> None:
        exchange.respond(fault.http_status, self._render.fault_fields(fault), self._render.fault(fault))

    def _fields(self, index: EtcdIndex) -> bytes:
        member = self._member
        return self._render.success_fields(index, member.commit_index, member.term)

    # Watches

    def _watch(self, exchange: Exchange, key: bytes, parameters: Parameters) -> None:
        """Serve a watch: from the window when it holds a match, else from the next match on.

        A stream with a match in the window gets that one and then nothing, its body staying open: etcd's
        behaviour.
        """
        now = self._machine.tree.index
        since = parameters.wait_index or now + 1
        found = self._machine.history.scan(key, parameters.recursive, since)
        if isinstance(found, Fault):
            self._refuse(exchange, found)
            return
        exchange.begin(200, self._fields(now))
        if found is not None:
            exchange.push(self._render.event(found, past=True))
            if not parameters.stream:
                exchange.end()
            return
        deliver = partial(self._deliver, exchange, parameters.stream)
        watcher = self._hub.watch(key, parameters.recursive, parameters.stream, since, deliver)
        exchange.on_gone(watcher.remove)

    def _deliver(self, exchange: Exchange, stream: bool, event: Event | None) -> bool:
        """Hand an event to a watcher's connection; end the body for None.

        False when it is gone, or so far behind that its buffer is full.
        """
        if event is None:
            exchange.end()
            return False
        taken = exchange.push(self._line(event))
        if not stream or not taken:
            exchange.end()
        return taken

    def _line(self, event: Event) -> bytes:
        """The event's one line of JSON; all who are told of it share one object."""
        shown, line = self._shown
        if shown is not event:
            line = self._render.event(event)
            self._shown = (event, line)
        return line


def _seconds(parameters: Parameters) -> int:
    return min(parameters.ttl or 0, commands.LONGEST_TTL)
