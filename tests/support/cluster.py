"""A cluster of real store processes on loopback, and plain requests to its members."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from email.message import Message
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlencode

from netstore.disk.datadir import read_token
from tests.support.daemon import Daemon, free_port, spawn
from tests.support.inside import inside
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

NAMES: Final = "abcdefg"

PACE: Final = ("--heartbeat-interval", "40", "--election-timeout", "400")
"""Fast enough that a test does not wait for elections, slow enough for two busy cores."""


TRY_SECONDS: Final = 1.0
"""How long an answer may take that is asked for again when none came."""

START_SECONDS: Final = 60.0
"""How long a member may take until it serves, with the others starting beside it on busy cores."""


FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass
class Answer:
    """What a member answered: status 0 when it did not."""

    status: int
    headers: Message = field(default_factory=Message)
    raw: bytes = b""

    @property
    def body(self) -> Any:
        """The value of the JSON, or the text if it is none."""
        try:
            return json.loads(self.raw)
        except ValueError:
            return self.raw.decode(errors="replace")


def exchange(
    daemon: Daemon,
    method: str,
    path: str,
    body: str | bytes | None = None,
    fields: Mapping[str, str] | None = None,
    *,
    limit: float = 12.0,
) -> Answer:
    """One request over a connection of its own, from inside the member's network namespace if it has one."""

    def ask() -> Answer:
        connection = http.client.HTTPConnection(daemon.host, daemon.port, timeout=seconds(limit))
        try:
            sent = body.encode() if isinstance(body, str) else body
            connection.request(method, path, sent, dict(fields or {}))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    return ask() if daemon.netns is None else inside(daemon.netns, ask)


def request(daemon: Daemon, method: str, path: str, limit: float = 12.0, **form: object) -> Answer:
    """A request with this form, if any. Never raises for what the other side does."""
    try:
        if form:
            return exchange(daemon, method, path, urlencode(form), FORM, limit=limit)
        return exchange(daemon, method, path, limit=limit)
    except (OSError, http.client.HTTPException):
        return Answer(0)


def put(daemon: Daemon, key: str, value: str, limit: float = 12.0) -> Answer:
    """Write a key of the v2 tree."""
    return request(daemon, "PUT", f"/v2/keys/{key}", limit, value=value)


def get(daemon: Daemon, key: str, query: str = "") -> str | None:
    """The value of a key as this member has it."""
    answer = request(daemon, "GET", f"/v2/keys/{key}{query}")
    return str(answer.body["node"]["value"]) if answer.status == 200 else None


def write(daemon: Daemon, key: str, value: str) -> None:
    """Write a key; repeated until it is acknowledged."""
    until(
        lambda: put(daemon, key, value, TRY_SECONDS).status in (200, 201),
        f"{key}={value} is written at {daemon.url}",
    )


@dataclass
class Members:
    """Members of one cluster by name. As a context manager all of them are stopped at the end."""

    folder: Path
    size: int = 3
    flags: tuple[str, ...] = PACE
    peer_scheme: str = "http"
    host_of: Callable[[str], str] = lambda _: "127.0.0.1"
    netns_of: Callable[[str], str | None] = lambda _: None
    program: str = "netstore.cli.netstored"
    """The module that is run."""
    environment_of: Callable[[str], Mapping[str, str]] = lambda _: {}
    daemons: dict[str, Daemon] = field(default_factory=dict)
    ports: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.kill_all)
            for name in NAMES[: self.size]:
                self.spawn(name, *self.beginning(), *self.own_flags(name))
            for daemon in self.daemons.values():
                daemon.wait_until_healthy(START_SECONDS)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_all()
        if error is not None:
            for name, daemon in self.daemons.items():
                error.add_note(f"log of {name}:\n{daemon.log[-3000:]}")

    def __getitem__(self, name: str) -> Daemon:
        return self.daemons[name]

    def peer_url(self, name: str) -> str:
        """Where its peers reach a member, started or not."""
        if name not in self.ports:
            self.ports[name] = (free_port(), free_port())
        return f"{self.peer_scheme}://{self.host_of(name)}:{self.ports[name][1]}"

    def beginning(self, extra: str = "") -> tuple[str, ...]:
        """The flag that names the members the cluster starts with."""
        names = NAMES[: self.size] + extra
        return ("--initial-cluster", ",".join(f"{name}={self.peer_url(name)}" for name in names))

    def own_flags(self, _: str) -> tuple[str, ...]:
        """Flags that differ from member to member."""
        return ()

    def spawn(self, name: str, *flags: str) -> Daemon:
        """Start a member for the first time, and do not wait."""
        peer_url = self.peer_url(name)
        client_url = f"http://{self.host_of(name)}:{self.ports[name][0]}"
        data = self.folder / f"{name}.data"
        command = (
            *(sys.executable, "-m", self.program, "--name", name, "--data-dir", str(data)),
            *("--listen-client-urls", client_url, "--listen-peer-urls", peer_url),
            *self.flags,
            *flags,
        )
        daemon = self.daemons[name] = spawn(
            command,
            client_url,
            data,
            self.folder / f"{name}.log",
            netns=self.netns_of(name),
            environment=self.environment_of(name),
        )
        return daemon

    def join(self, name: str, *flags: str, at: str = "a") -> Daemon:
        """Start a member that asks another one to let it in, and wait until it serves."""
        daemon = self.spawn(name, *self.joining(at), *flags)
        daemon.wait_until_healthy(START_SECONDS)
        return daemon

    def joining(self, at: str) -> tuple[str, ...]:
        """The flags that let a member ask another one to let it in."""
        found = read_token(self.daemons[at].data_dir)
        return ("--join", self.peer_url(at), *(() if found is None else ("--join-token", found)))

    def wipe(self, name: str) -> None:
        """Remove a stopped member's data folder."""
        shutil.rmtree(self.daemons[name].data_dir)

    def wipe_if_there(self, name: str) -> None:
        """Remove the data folder of an earlier member of this name, if any."""
        shutil.rmtree(self.folder / f"{name}.data", ignore_errors=True)

    def running(self) -> list[Daemon]:
        """Members whose process has not ended."""
        return [daemon for daemon in self.daemons.values() if daemon.process.poll() is None]

    def leader(self) -> str:
        """The name of the member that all running members follow."""

        def agreed() -> str:
            names = {leader_of(daemon) for daemon in self.running()}
            return names.pop() if len(names) == 1 else ""

        return until(agreed, "all running members follow one leader")

    def followers(self) -> list[str]:
        """The names of the others, in order."""
        leader = self.leader()
        return sorted(set(self.daemons) - {leader})

    def id_of(self, name: str) -> str:
        """The id of a member, as any running one tells it."""
        return str(next(each["id"] for each in listed(self.running()[0]) if each["name"] == name))

    def kill_all(self) -> None:
        """End all processes at once, also stopped ones."""
        for daemon in self.running():
            daemon.kill()


def leader_of(daemon: Daemon) -> str:
    """The name of the leader this member follows; empty when it knows none."""
    answer = request(daemon, "GET", "/v2/members/leader", TRY_SECONDS)
    return str(answer.body["name"]) if answer.status == 200 else ""


def listed(daemon: Daemon) -> list[dict[str, Any]]:
    """The members, as this one lists them."""
    answer = request(daemon, "GET", "/v2/members", TRY_SECONDS)
    return list(answer.body["members"]) if answer.status == 200 else []


def healthy(daemon: Daemon) -> bool:
    """`/health` answers 200 now."""
    return request(daemon, "GET", "/health", TRY_SECONDS).status == 200


def converged(members: Members, key: str, value: str) -> None:
    """Wait until all running members have this value under the key."""
    for daemon in members.running():

        def shows(daemon: Daemon = daemon) -> bool:
            return get(daemon, key) == value

        until(shows, f"{key}={value} shows at {daemon.url}")


def cut_before(daemon: Daemon) -> int:
    """The first index that the member's log still has, by its last `log_compacted` line; 0 without one."""
    told = re.findall(r'"log_compacted".*"before": (\d+)', daemon.log)
    return int(told[-1]) if told else 0


def fill(daemon: Daemon, count: int) -> bool:
    """Write that many keys, sent at once over one connection. True when all were."""
    body = "".join(
        f"PUT /v2/keys/fill-{number}?value={number} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
        for number in range(count)
    )
    got = b""
    with socket.create_connection((daemon.host, daemon.port), seconds(10)) as stream:
        stream.sendall(body.encode())
        while got.count(b"HTTP/1.1 20") < count:
            data = stream.recv(65536)
            assert data, got[-300:]
            got += data
    return True
