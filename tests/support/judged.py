"""Clients of a real cluster that note what they asked and were told, in the form the judges of `tests.check`
read, and watchers that note every change.

A client sits beside the member it asks, in its network namespace: who cuts a member off cuts its clients
off too, and they go on asking it. A call without an answer may happen later, or never.
All calls and answers get a place in one order, counted in this process: that one ended before another
began is what an observer of all clients would say.
"""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

from netstore.errors import Fault, Reason
from netstore.state.v2.commands import (
    CompareAndDelete,
    CompareAndSwap,
    Create,
    Delete,
    InOrder,
    QuorumGet,
    Set,
)
from netstore.types import EtcdIndex, Event, NodeView
from tests.check import linear, revisions, watches
from tests.check.history import Door, Fate, Operation, Wrong
from tests.check.model import Model
from tests.check.registers import register_histories
from tests.check.watches import WINDOW, Watch
from tests.support.inside import inside
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from netstore.state.commands import Command
    from tests.support.cluster import Members
    from tests.support.daemon import Daemon

PATIENCE: Final = 2.0
"""Seconds a client waits for an answer; less than a member takes to give up a proposal."""

LONGEST_WAIT: Final = 60.0
"""Seconds anything else may take before a run has failed; generous, for busy cores."""

REGISTERS: Final = b"/r"
"""Keys below are files, whose directory never goes: judged one by one by search."""

QUEUE: Final = b"/q"

STICKY: Final = 0.95
"""How likely a client asks the same member again."""

MOST_THINKING: Final = 0.02
"""Seconds between an answer and the next call, at most."""

RETRY_SECONDS: Final = 0.05
"""Between two tries of a watcher to reach its member."""

_FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}

_REFUSALS: Final = frozenset({Reason.NO_SPACE.cause, Reason.TOO_MANY.cause})
"""Causes of error 300 that say the request was not proposed."""

_KINDS: Final = {
    "set": 6,
    "create": 2,
    "swap": 6,
    "delete": 1,
    "delete_if": 2,
    "in_order": 3,
    "quorum_get": 6,
    "get": 6,
    "quorum_list": 0.2,
    "list": 0.2,
}


@dataclass
class Recorder:
    """Everything that clients and watchers of one cluster were told. As a context manager they run inside the
    block, and are given up at its end if `finish` was not called.
    """

    cluster: Members
    seed: int
    clients: int = 6
    keys: int = 4
    operations: list[Operation] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    events: dict[int, Event] = field(default_factory=dict)
    """Every change some watcher was told of, by its index."""
    failures: list[Exception] = field(default_factory=list)
    """What no promise allows, seen by a client or a watcher at once."""
    unheard: Counter[str] = field(default_factory=Counter)
    """Calls at each member that had no answer."""
    told: int = 0
    """Calls that had one."""

    def __post_init__(self) -> None:
        self.over = threading.Event()
        """Set when no new call is to be made."""
        self.last = 0
        """The index up to which watchers go on; 0 for on and on, -1 for no further."""
        self._order = itertools.count(1)
        self._serials = itertools.count()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = [
            *(_Client(self, number) for number in range(self.clients)),
            *(_Watcher(self, name) for name in self.cluster.daemons),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_calls()
        self._end_watches(self.last or -1)

    def finish(self) -> None:
        """End all calls, and wait until all members show one index and one content. `Wrong` when that is not
        what the changes up to there made.
        """
        self._end_calls()
        asker = _Asker(self, Random(self.seed), self.clients)  # noqa: S311 - repeatable

        def agreed() -> tuple[int, tuple[NodeView, ...]] | None:
            """A last write, told of by a watch, ends the history; what came late is followed by another."""
            last = asker.ask(partial(Set, b"/last"), Door.LOG)
            asker.leave()
            shown = [content(self.cluster[name]) for name in self.cluster.daemons]
            same = all(each == shown[0] for each in shown)
            return shown[0] if same and shown[0] and last and shown[0][0] == last.index else None

        found = until(agreed, "all members have one index and one content", LONGEST_WAIT)
        assert found is not None
        index, nodes = found
        self._end_watches(index)
        self._raise_failures()
        model = Model()
        for event in self.changes():
            model.fold(event)
        whole = model.view(b"/", recursive=True)
        assert whole is not None
        if (model.index, whole.nodes) != (index, nodes):
            raise Wrong(f"at {index} all members have {nodes}, but the changes make {whole.nodes}")

    def changes(self) -> list[Event]:
        """All changes from index 1 on. One that no watcher was told of is taken for one of the members'."""
        nothing = NodeView(b"/", EtcdIndex(0), EtcdIndex(0))
        return [
            self.events.get(index) or Event("", EtcdIndex(index), nothing, internal=True)
            for index in range(1, max(self.events, default=0) + 1)
        ]

    def judge(self) -> None:
        """`Wrong` when what clients and watchers were told breaks a promise."""
        events = self.changes()
        revisions.judge(self.operations, events)
        for key, calls in register_histories(self.operations, REGISTERS):
            linear.judge(key, calls)
        watches.judge(self.watches, events, {})

    def progress(self, calls: int, what: str) -> None:
        """Wait until so many more calls had an answer."""
        goal = self.told + calls

        def reached() -> bool:
            self._raise_failures()
            return self.told >= goal

        until(reached, f"{calls} more calls are answered {what}", LONGEST_WAIT)

    def waited_in_vain(self, name: str, what: str) -> None:
        """Wait until one more call at this member got no answer."""
        before = self.unheard[name]
        until(lambda: self.unheard[name] > before, f"a call goes unanswered {what}", LONGEST_WAIT)

    # --- for clients and watchers

    def order(self) -> int:
        """The next place in the order of what clients see."""
        return next(self._order)

    def begin(self, client: int, member: str, door: Door, make: Callable[[bytes], Command]) -> Operation:
        """A call is made, with a value that is its own."""
        serial = next(self._serials)
        command = make(b"%d" % serial)
        made = Operation(serial, client, ord(member) - ord("a"), door, command, self.order())
        self.operations.append(made)
        return made

    def ended(self, operation: Operation, member: str) -> None:
        """It was answered, or given up."""
        with self._lock:
            if operation.fate is Fate.UNKNOWN:
                self.unheard[member] += 1
            else:
                self.told += 1

    def happened(self, event: Event) -> None:
        """A watcher was told of this."""
        with self._lock:
            first = self.events.setdefault(event.index, event)
        if first != event:
            raise Wrong(f"one index, two changes: {first} and {event}")

    def _raise_failures(self) -> None:
        if self.failures:
            raise self.failures[0]

    def _end_calls(self) -> None:
        self.over.set()
        for thread in self._threads:
            if isinstance(thread, _Client):
                thread.join(seconds(LONGEST_WAIT))
                assert not thread.is_alive(), f"{thread.name} does not end"

    def _end_watches(self, last: int) -> None:
        self.last = last
        for thread in self._threads:
            thread.join(seconds(LONGEST_WAIT))
            assert not thread.is_alive(), f"{thread.name} does not end"


class _Connection:
    """A connection to one member, from beside it, and the largest index it was told there."""

    def __init__(self, daemon: Daemon) -> None:
        self.index = 0
        # fixed: a call that has no answer by then is noted as such
        self._http = http.client.HTTPConnection(daemon.host, daemon.port, timeout=PATIENCE)
        self._http.auto_open = 0  # it would do so in the wrong namespace
        try:
            if daemon.netns is None:
                self._http.connect()
            else:
                inside(daemon.netns, self._http.connect)
        except OSError:
            self._http.close()
            raise

    def ask(self, method: str, path: str, form: dict[str, str]) -> tuple[int, int, bytes]:
        """Status, `X-Etcd-Index` and body. Raises OSError and HTTPException when there is no answer."""
        body = urlencode(form) if form else None
        self._http.request(method, f"/v2/keys{path}", body, _FORM if form else {})
        with self._http.getresponse() as answer:
            return answer.status, int(answer.headers.get("X-Etcd-Index", 0)), answer.read()

    def advance(self, index: int, what: object) -> None:
        """A member never shows less than it has shown on the same connection."""
        if index < self.index:
            raise Wrong(f"index {index} after {self.index} on one connection: {what}")
        self.index = index

    def close(self) -> None:
        self._http.close()


class _Asker:
    """Sends calls to one member; to another one after a failure, and now and then."""

    def __init__(self, recorder: Recorder, random: Random, number: int = 0) -> None:
        self._recorder = recorder
        self._random = random
        self._number = number
        self._member = ""
        self._connection: _Connection | None = None

    def ask(self, make: Callable[[bytes], Command], door: Door) -> Event | Fault | None:
        """One call; None when no member could be reached, or none answered."""
        if self._random.random() >= STICKY:
            self.leave()
        connection = self._connected()
        if connection is None:
            return None
        recorder = self._recorder
        made = recorder.begin(self._number, self._member, door, make)
        try:
            status, index, body = connection.ask(*request_of(made.command, door))
        except (OSError, http.client.HTTPException):
            made.abandon()
            self.leave()
        else:
            outcome = outcome_of(made.command, status, index, body)
            made.end(recorder.order(), outcome)
            if made.fate is Fate.ANSWERED:
                connection.advance(outcome.index, made)
            else:
                self.leave()
        recorder.ended(made, self._member)
        return made.outcome if isinstance(made.outcome, Event | Fault) else None

    def leave(self) -> None:
        """Another member next time, or this one over a new connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _connected(self) -> _Connection | None:
        if self._connection is None:
            self._member = self._random.choice(sorted(self._recorder.cluster.daemons))
            with suppress(OSError):
                self._connection = _Connection(self._recorder.cluster[self._member])
        return self._connection


class _Client(threading.Thread):
    """A client thread: one call at a time, until the recorder is over."""

    def __init__(self, recorder: Recorder, number: int) -> None:
        super().__init__(name=f"client {number}", daemon=True)
        self._recorder = recorder
        self._random = Random(recorder.seed * 1_000 + number)  # noqa: S311 - repeatable
        self._asker = _Asker(recorder, self._random, number)
        self._known: dict[bytes, bytes] = {}
        """The value last seen of a key."""

    def run(self) -> None:
        """Until the recorder says that it is over."""
        try:
            while not self._recorder.over.wait(self._random.random() * MOST_THINKING):  # fixed: a pause
                self._call()
        except Exception as error:  # noqa: BLE001 - raised again by who waits for progress
            self._recorder.failures.append(error)
        finally:
            self._asker.leave()

    def _call(self) -> None:
        kind = self._random.choices(list(_KINDS), list(_KINDS.values()))[0]
        path = b"%b/%d" % (REGISTERS, self._random.randrange(self._recorder.keys))
        seen = self._known.get(path, b"none")
        make: dict[str, Callable[[bytes], Command]] = {
            "set": lambda value: Set(path, value),
            "create": lambda value: Create(path, value),
            "swap": lambda value: CompareAndSwap(path, value, prev_value=seen),
            "delete": lambda _: Delete(path),
            "delete_if": lambda _: CompareAndDelete(path, prev_value=seen),
            "in_order": lambda value: InOrder(QUEUE, value),
            "get": lambda _: QuorumGet(path),
            "list": lambda _: QuorumGet(QUEUE),
        }
        name = kind.removeprefix("quorum_")
        door = Door.LOG
        if name in {"get", "list"}:
            door = Door.LOCAL if name == kind else Door.LINEAR
        outcome = self._asker.ask(make[name], door)
        if isinstance(outcome, Event) and outcome.node.value is not None:
            self._known[outcome.node.key] = outcome.node.value


class _Watcher(threading.Thread):
    """A watcher thread: follows all changes at one member by long polls, without a gap."""

    def __init__(self, recorder: Recorder, name: str) -> None:
        super().__init__(name=f"watcher at {name}", daemon=True)
        self._recorder = recorder
        self._name = name
        self._next = 1
        self._connection: _Connection | None = None

    def run(self) -> None:
        """Until it was told of the last index."""
        recorder = self._recorder
        try:
            while not recorder.last or self._next <= recorder.last:
                try:
                    self._poll()
                except (OSError, http.client.HTTPException):
                    self._leave()
                    time.sleep(RETRY_SECONDS)  # fixed: between two tries
        except Exception as error:  # noqa: BLE001 - raised again by who waits for progress
            recorder.failures.append(error)
        finally:
            self._leave()

    def _poll(self) -> None:
        if self._connection is None:
            self._connection = _Connection(self._recorder.cluster[self._name])
        watch = Watch(b"/", True, False, ord(self._name) - ord("a"), since=self._next)
        path = f"/?wait=true&recursive=true&waitIndex={self._next}"
        status, watch.opened_at, body = self._connection.ask("GET", path, {})
        if not body.strip():
            self._leave()  # the member has interrupted its watches
            return
        told = json.loads(body)
        if status == http.HTTPStatus.OK:
            event = event_of(told, told["node"]["modifiedIndex"])
            watch.given.append(event)
            watch.ended = True
            self._recorder.happened(event)
            self._next = event.index + 1
        elif told["errorCode"] == 401:
            watch.cleared = Fault(401, told["cause"].encode(), told["index"])
            self._next = max(self._next + 1, told["index"] - WINDOW * 9 // 10)
        elif told["errorCode"] == 300:
            self._leave()  # the member stops
            return
        else:
            raise Wrong(f"a watch is answered {status} {told}")
        self._recorder.watches.append(watch)

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


# --- the wire


def request_of(command: Command, door: Door) -> tuple[str, str, dict[str, str]]:
    """Method, path below `/v2/keys` and form of a command."""
    assert isinstance(
        command, Set | Create | CompareAndSwap | CompareAndDelete | Delete | InOrder | QuorumGet
    )
    path = command.path.decode()
    if isinstance(command, QuorumGet):
        return "GET", f"{path}?sorted=true" + ("" if door is Door.LOCAL else "&quorum=true"), {}
    if isinstance(command, CompareAndDelete):
        return "DELETE", f"{path}?{urlencode({'prevValue': command.prev_value.decode()})}", {}
    if isinstance(command, Delete):
        return "DELETE", path, {}
    form = {"value": command.value.decode()}
    if isinstance(command, Create):
        form["prevExist"] = "false"
    if isinstance(command, CompareAndSwap):
        form["prevValue"] = command.prev_value.decode()
    return "POST" if isinstance(command, InOrder) else "PUT", path, form


def outcome_of(command: Command, status: int, index: int, body: bytes) -> Event | Fault:
    """What an answer says. Wrong for one that a member must not give."""
    try:
        told = json.loads(body)
        if "errorCode" in told:
            cause = told.get("cause", "").encode()
            code = told["errorCode"]
            return Fault(code, cause, told["index"], outcome_known=code != 300 or cause in _REFUSALS)
        return event_of(told, index)
    except (ValueError, KeyError, TypeError) as error:
        raise Wrong(f"{command} is answered {status} {body[:200]!r}") from error


def event_of(told: dict[str, Any], index: int) -> Event:
    """A change, or what a read shows."""
    listed = told["action"] == "get"
    prev = _view(told["prevNode"]) if "prevNode" in told else None
    return Event(told["action"], EtcdIndex(index), _view(told["node"], listed=listed), prev)


def _view(node: dict[str, Any], *, listed: bool = False, recursive: bool = False) -> NodeView:
    value = node.get("value")
    is_dir = node.get("dir", False)
    nodes = None
    if listed and is_dir:
        nodes = tuple(_view(child, listed=recursive, recursive=recursive) for child in node.get("nodes", ()))
    return NodeView(
        node.get("key", "/").encode(),
        EtcdIndex(node.get("createdIndex", 0)),
        EtcdIndex(node.get("modifiedIndex", 0)),
        None if value is None or is_dir else value.encode(),
        is_dir,
        nodes=nodes,
    )


def content(daemon: Daemon) -> tuple[int, tuple[NodeView, ...]] | None:
    """A member's index and everything it has, read from it alone; None when it does not answer."""
    try:
        connection = _Connection(daemon)
    except OSError:
        return None
    try:
        status, index, body = connection.ask("GET", "/?recursive=true&sorted=true", {})
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    if status != http.HTTPStatus.OK:
        return None
    return index, _view(json.loads(body)["node"], listed=True, recursive=True).nodes or ()


# --- the judges judged


def stale_answers(operations: Sequence[Operation]) -> Iterator[tuple[Operation, Event]]:
    """Linearizable reads, each with an older answer that a member could have given: one that had been
    overwritten, and its writer told so, before the read began.
    """
    writes: dict[bytes, list[Operation]] = {}
    for operation in operations:
        outcome = operation.outcome
        if operation.fate is not Fate.ANSWERED or not isinstance(outcome, Event):
            continue
        key = outcome.node.key
        if operation.door is Door.LOG and isinstance(operation.command, Set) and outcome.prev is not None:
            writes.setdefault(key, []).append(operation)
        elif operation.door is Door.LINEAR and outcome.node.value is not None:
            for write in writes.get(key, ()):
                told = write.outcome
                assert isinstance(told, Event)
                if write.returned < operation.called and told.prev is not None:
                    yield operation, Event("get", EtcdIndex(told.index - 1), told.prev)
                    break
