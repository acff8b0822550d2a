"""The peer port of real members without TLS: who is admitted there, and what others can and cannot do."""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from msgspec import structs

from netstore.disk.datadir import read_token
from netstore.peer.handshake import (
    NONCE_BYTES,
    Challenge,
    Hello,
    Offer,
    Proof,
    Purpose,
    Secret,
    Verdict,
    Welcome,
    read_answer,
)
from netstore.peer.wire import (
    JoinRequest,
    decode_member_list,
    encode_batch,
    encode_document,
    frame,
    read_frame,
)
from netstore.raft.messages import MAX_NUMBER, Append, Heartbeat, VoteRequest
from netstore.types import ClusterId, Index, NodeId, Term
from tests.support.cluster import Members, listed, put, write
from tests.support.daemon import ROOT, clean_environment, free_port, is_healthy
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from netstore.raft.messages import Message
    from tests.support.daemon import Daemon


WEAK = "etcd-cluster"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    """Three members that began together, with a secret of their own."""
    folder = tmp_path_factory.mktemp("peerport")
    with Members(folder, flags=("--initial-cluster-token", "only these know it")) as members:
        yield members


class Caller:
    """A connection to a member's peer port."""

    def __init__(self, members: Members, name: str) -> None:
        self.sock = socket.create_connection(("127.0.0.1", members.ports[name][1]), seconds(5))
        self.sock.settimeout(seconds(10))
        self.read = b""

    def greet(self, hello: Hello, token: str) -> Welcome | None:
        """Do the handshake with this token; the answer, None when there was none."""
        said = hello.encode()
        self.sock.sendall(said)
        answer = self.answer()
        if isinstance(answer, Challenge):
            self.sock.sendall(Proof(Secret(token).caller_proof(said, answer.encode())).encode())
            answer = self.answer()
        return answer if isinstance(answer, Welcome) else None

    def answer(self) -> Challenge | Welcome | None:
        """The next greeting; None at the end."""
        while (found := read_answer(self.read)) is None:
            with suppress(OSError):
                data = self.sock.recv(4096)
                if data:
                    self.read += data
                    continue
            return None
        self.read = self.read[found[1] :]
        return found[0]

    def is_closed(self) -> bool:
        """Wait until the other side hangs up; what still comes is thrown away."""
        with suppress(OSError):
            while self.sock.recv(65536):
                pass
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def hello(members: Members, name: str, purpose: Purpose = Purpose.MESSAGES, *, sender: int = 0) -> Hello:
    """What a stranger can know of a cluster: all its ids."""
    ids = {each["name"]: int(each["id"], 16) for each in listed(members.running()[0])}
    other = next(id_ for known, id_ in ids.items() if known != name)
    cluster = next(int(match, 16) for match in re.findall(r'"cluster": "([0-9a-f]+)"', members[name].log))
    me = NodeId(ids[name])
    return Hello(
        purpose,
        ClusterId(cluster),
        NodeId(sender or other),
        me,
        "test",
        nonce=os.urandom(NONCE_BYTES),
        offer=Offer.TOKEN,
    )


def terms(daemon: Daemon) -> int:
    return daemon.log.count('"leader_changed"')


def absurd(sender: NodeId, to: NodeId) -> list[Message]:
    """Messages that would end a member that believes them, or disturb its cluster."""
    far = (1 << 40, MAX_NUMBER - 1, MAX_NUMBER, 2**64 - 1)
    return [
        *(Heartbeat(sender, to, Term(term), Index(0), 0) for term in far),
        *(
            VoteRequest(sender, to, Term(term), Index(MAX_NUMBER), Term(MAX_NUMBER), forced=True)
            for term in far
        ),
        Append(sender, to, Term(2), Index(MAX_NUMBER), Term(1), Index(MAX_NUMBER), []),
    ]


def test_a_stranger_that_knows_all_ids_changes_nothing(three: Members) -> None:
    write(three["a"], "before", "1")
    before = {name: (terms(daemon), len(listed(daemon))) for name, daemon in three.daemons.items()}
    for name in three.daemons:
        for purpose in Purpose:
            with Caller(three, name) as caller:
                welcome = caller.greet(hello(three, name, purpose), WEAK)
                assert welcome is not None
                assert welcome.verdict == Verdict.NOT_PROVED
                assert caller.is_closed()
        fake = hello(three, name)
        for message in absurd(fake.sender, fake.receiver):
            with Caller(three, name) as caller:
                caller.sock.sendall(fake.encode() + encode_batch([message]))
                assert caller.is_closed()
        with Caller(three, name) as caller:
            wish = JoinRequest("evil", ("http://127.0.0.1:9",), fake.sender)
            asked = hello(three, name, Purpose.MEMBER_LIST)
            caller.sock.sendall(asked.encode() + frame(encode_document(wish)))
            assert caller.is_closed()
    for name, daemon in three.daemons.items():
        assert daemon.process.poll() is None
        assert (terms(daemon), len(listed(daemon))) == before[name]
        assert put(daemon, "after", name).status in {200, 201}


def test_who_offers_no_proof_is_told_who_is_there_and_what_joining_needs(three: Members) -> None:
    ids = {int(each["id"], 16) for each in listed(three["a"])}
    nobody = Hello(Purpose.MEMBER_LIST, ClusterId(0), NodeId(0), NodeId(0), "test")
    wish = JoinRequest("evil", ("http://127.0.0.1:9",), NodeId(min(ids)))
    for name in three.daemons:
        for application in (None, wish):
            with Caller(three, name) as caller:
                caller.sock.sendall(nobody.encode() + frame(encode_document(application)))
                welcome = caller.answer()
                assert isinstance(welcome, Welcome)
                assert welcome.verdict == Verdict.ACCEPTED
                while (found := read_frame(caller.read, 1 << 20)) is None:
                    caller.read += caller.sock.recv(4096)
                roster = decode_member_list(found[0])
                assert {member.id for member in roster.members} == ids
                assert roster.you == 0
                assert ("member token" in roster.refusal) == (application is not None)
                assert caller.is_closed()
        for purpose in (Purpose.MESSAGES, Purpose.SNAPSHOT):
            with Caller(three, name) as caller:
                fake = structs.replace(hello(three, name, purpose), offer=Offer.NOTHING)
                caller.sock.sendall(fake.encode())
                welcome = caller.answer()
                assert isinstance(welcome, Welcome)
                assert welcome.verdict == Verdict.NOT_PROVED
                assert caller.is_closed()
    assert {int(each["id"], 16) for each in listed(three["a"])} == ids
    write(three["a"], "asked", "by anybody")


def test_a_lying_member_costs_its_stream_and_ends_nobody(three: Members) -> None:
    for name in three.daemons:
        for message in absurd(NodeId(77), hello(three, name).receiver):
            with Caller(three, name) as caller:
                welcome = caller.greet(hello(three, name, sender=77), "only these know it")
                assert welcome is not None
                assert welcome.verdict == Verdict.ACCEPTED
                caller.sock.sendall(encode_batch([message]))
                caller.sock.shutdown(socket.SHUT_WR)
                assert caller.is_closed()
    for name, daemon in three.daemons.items():
        write(daemon, "still", name)
        assert daemon.process.poll() is None


def test_a_greeting_tells_no_token_and_no_log_does(three: Members) -> None:
    for daemon in three.daemons.values():
        assert "only these know it" not in daemon.log
        assert "join_token_weak" not in daemon.log
        token = daemon.data_dir / "token"
        assert token.stat().st_mode & 0o777 == 0o600
        assert read_token(daemon.data_dir) == "only these know it"


def test_half_a_frame_is_held_of_nobody_who_proved_nothing(three: Members) -> None:
    follower = three["a"]

    def resident() -> int:
        status = Path(f"/proc/{follower.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    before = resident()
    with ExitStack() as open_:
        for number in range(30):
            caller = open_.enter_context(Caller(three, "a"))
            caller.sock.settimeout(0.5)  # fixed: no matter how much it sends until then
            with suppress(OSError):
                caller.sock.sendall(hello(three, "a", sender=1000 + number).encode())
                caller.sock.sendall(struct.pack("<II", 120 << 20, 0) + bytes(8 << 20))
        assert resident() - before < 32 * 1024
    write(follower, "held", "nothing")


def test_a_default_token_is_told_as_weak_once(tmp_path: Path) -> None:
    with Members(tmp_path, 3) as members:
        for daemon in members.daemons.values():
            assert daemon.log.count("join_token_weak") == 1
            assert "--initial-cluster-token" in daemon.log


def test_who_joins_needs_the_token_of_this_cluster(tmp_path: Path) -> None:
    with Members(tmp_path, 0) as members:
        members.spawn("a", "--initial-advertise-peer-urls", members.peer_url("a")).wait_until_healthy()
        assert len(read_token(members["a"].data_dir) or "") == 64
        without = members.spawn("b", "--join", members.peer_url("a"))
        assert without.process.wait(seconds(20)) == 2
        assert "join_token: is needed to join over http: run netstorectl member token" in without.log
        wrong = members.spawn("c", "--join", members.peer_url("a"), "--join-token", "guessed")
        until(lambda: "does not know the join token" in wrong.log, "it is told why")
        wrong.kill()
        assert len(listed(members["a"])) == 1
        (tmp_path / "secret").write_text((read_token(members["a"].data_dir) or "") + "\n")
        members.wipe_if_there("d")
        joined = members.spawn(
            "d", "--join", members.peer_url("a"), "--join-token-file", str(tmp_path / "secret")
        )
        joined.wait_until_healthy()
        assert read_token(joined.data_dir) == read_token(members["a"].data_dir)
        joined.kill()
        again = [
            word for word in joined.command if word not in {"--join-token-file", str(tmp_path / "secret")}
        ]
        joined.command = tuple(again)
        joined.start_again()
        until(lambda: put(joined, "kept", "token").status in {200, 201}, "it is a member again")


def test_readme_s_way_to_three_members(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    [block] = re.findall(r"<!-- command: three -->\n```sh\n(.*?)```", readme, re.DOTALL)
    ports = {number: str(free_port()) for number in ("2380", "2479", "2480", "2579", "2580")}
    lines = re.sub(r"\b2[0-9]{3}\b", lambda found: ports.get(found[0], found[0]), block)
    lines = lines.replace("/var/tmp/netstore-", f"{tmp_path}/").replace("\\\n", " ").replace(".venv/bin/", "")
    first, second, third, *_ = [line for line in lines.splitlines() if line.strip()]
    own = free_port()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    started: list[subprocess.Popen[bytes]] = []
    try:
        for number, line in enumerate((first, second, third)):
            environment = {**clean_environment(), "PATH": path}
            port = (str(own), ports["2479"], ports["2579"])[number]
            if not number:
                environment["NETSTORE_LISTEN_CLIENT_URLS"] = f"http://127.0.0.1:{own}"
            with (tmp_path / f"log{number}").open("wb") as log:
                shell = ("bash", "-c", line.replace(" netstored ", " exec netstored ", 1).strip())
                started.append(subprocess.Popen(shell, env=environment, stdout=log, stderr=log))
            until(partial(is_healthy, f"http://127.0.0.1:{port}"), f"{line} serves", 30)
        outcome = subprocess.run(
            ("netstorectl", "--endpoints", f"http://127.0.0.1:{own}", "member", "ls"),
            env={**clean_environment(), "PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert {line.split("\t")[1] for line in outcome.stdout.splitlines()} == {"a", "b", "c"}
    finally:
        for process in started:
            process.kill()
            process.wait(seconds(10))


def added(members: Members, name: str) -> None:
    """Add a member as an operator of etcd does."""
    control = (sys.executable, "-m", "netstore.cli.netstorectl", "--endpoints", members["a"].url)
    subprocess.run(
        (*control, "member", "add", members.peer_url(name)),
        env=clean_environment(),
        capture_output=True,
        check=True,
        timeout=seconds(30),
    )


def test_etcd_s_way_to_one_more_member_needs_the_cluster_s_token_too(three: Members) -> None:
    added(three, "d")
    flags = (*three.beginning("d"), "--initial-cluster-state", "existing")
    guess = three.spawn("d", *flags, "--initial-cluster-token", "guessed")
    until(lambda: "does not know the join token" in guess.log, "it is told why")
    guess.kill()
    three.wipe_if_there("d")
    member = three.spawn("d", *flags)
    member.wait_until_healthy()
    assert read_token(member.data_dir) == "only these know it"
    three.daemons.pop("d").kill()


def test_etcd_s_way_from_one_member_to_two_needs_no_more_than_etcd(tmp_path: Path) -> None:
    with Members(tmp_path, 1) as members:
        added(members, "b")
        flags = (*members.beginning("b"), "--initial-cluster-state", "existing")
        members.spawn("b", *flags).wait_until_healthy()
        assert read_token(members["b"].data_dir) == read_token(members["a"].data_dir) == WEAK
        assert '"join_token_weak"' in members["a"].log


def test_one_more_for_a_cluster_that_began_alone_is_told_at_once_where_its_token_is(
    tmp_path: Path,
) -> None:
    with Members(tmp_path, 0) as members:
        members.spawn("a", "--initial-advertise-peer-urls", members.peer_url("a")).wait_until_healthy()
        added(members, "b")
        names = f"a={members.peer_url('a')},b={members.peer_url('b')}"
        flags = ("--initial-cluster", names, "--initial-cluster-state", "existing")
        lost = members.spawn("b", *flags)
        assert lost.process.wait(seconds(40)) == 1
        assert "netstorectl member token" in lost.log
        assert "--join-token" in lost.log
        token = read_token(members["a"].data_dir) or ""
        assert len(token) > len(WEAK)
        members.wipe_if_there("b")
        members.spawn("b", *flags, "--join-token", token).wait_until_healthy()
        assert read_token(members["b"].data_dir) == token


def test_who_is_answered_anything_does_not_begin_without_its_memory(tmp_path: Path) -> None:
    """The process that listens there may be a member of its cluster, in which it has voted before."""
    with Members(tmp_path, 1) as members, socket.socket() as other:
        port = int(members.peer_url("b").rpartition(":")[2])
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        members["a"].kill()
        members.wipe("a")
        lost = members.spawn("a", *members.beginning("b"))
        accepted, _ = other.accept()
        accepted.close()
        other.close()
        until(lambda: "connection refused" in lost.log, "it has asked again")
        assert '"identity_found"' not in lost.log.rpartition('"member_starting"')[2]


def test_who_would_begin_beside_a_running_cluster_with_another_token_does_not(tmp_path: Path) -> None:
    with Members(tmp_path, 3, flags=("--initial-cluster-token", "theirs")) as members:
        members["c"].kill()
        members.wipe("c")
        members.flags = ("--initial-cluster-token", "its own")
        lost = members.spawn("c", *members.beginning())
        assert lost.process.wait(seconds(30)) == 1
        assert "initial_cluster_token: " in lost.log
        assert "another cluster runs there" in lost.log
