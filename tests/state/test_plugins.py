"""The admitted plugins: what each command does, bounds, and what a restart or another member finds."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from netstore.errors import Fault
from netstore.network.plugins import MAX_DOCUMENT_BYTES, MAX_PLUGINS, MAX_WHEEL_BYTES, PART_BYTES
from netstore.state.commands import AdmitPlugin, PutWheelPart, RetirePlugin, encode
from netstore.state.digest import digest
from netstore.state.machine import Machine
from netstore.state.tables import PLUGINS, WHEELS
from netstore.types import Index
from tests.support.local_member import memory_engine

if TYPE_CHECKING:
    from netstore.disk.memoryengine import MemoryEngine
    from netstore.state.commands import Command

SIZE = 2 * PART_BYTES + 5
PARTS = [b"\x01" * PART_BYTES, b"\x02" * PART_BYTES, b"\x03" * 5]
DIGEST = sha256(b"".join(PARTS)).digest()


class Cluster:
    """A machine, another one that applies the same, and the engine of the first."""

    def __init__(self) -> None:
        self.engine: MemoryEngine = memory_engine()
        self.machine = Machine(self.engine)
        self.machine.load()
        self.twin = Machine(memory_engine())
        self.twin.load()

    def apply(self, command: Command) -> str:
        """What it is refused with; empty if it is done."""
        index = Index(self.machine.applied + 1)
        outcomes = [each.apply(index, encode(command)) for each in (self.machine, self.twin)]
        assert outcomes[0] == outcomes[1]
        assert digest(self.machine) == digest(self.twin)
        return outcomes[0].cause.decode() if isinstance(outcomes[0], Fault) else ""

    def reopened(self) -> Machine:
        self.machine.save()
        self.engine.commit()
        machine = Machine(self.engine)
        machine.load()
        return machine


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def part(number: int, data: bytes | None = None, digest_: bytes = DIGEST) -> PutWheelPart:
    return PutWheelPart("p", digest_, number * PART_BYTES, PARTS[number] if data is None else data)


def test_a_plugin_is_admitted_changed_and_retired(cluster: Cluster) -> None:
    assert cluster.apply(AdmitPlugin("p", b"{}")) == ""
    seen = cluster.machine.plugins.changes
    assert cluster.apply(AdmitPlugin("p", b'{"a":1}')) == ""
    assert cluster.machine.plugins.changes > seen
    assert cluster.reopened().plugins.by_name["p"].document == b'{"a":1}'
    assert cluster.apply(RetirePlugin("p")) == ""
    assert cluster.apply(RetirePlugin("p")) == "plugin p: is not admitted"
    assert cluster.reopened().plugins.by_name == {}


def test_a_wheel_arrives_in_parts_and_goes_with_its_plugin(cluster: Cluster) -> None:
    assert cluster.apply(AdmitPlugin("p", b"{}", DIGEST, SIZE)) == ""
    for number in range(3):
        assert cluster.apply(part(number)) == ""
    assert cluster.apply(part(1)) == "", "it is sent again"
    for machine in (cluster.machine, cluster.reopened()):
        assert machine.plugins.by_name["p"].received == SIZE
        assert [machine.plugins.part("p", number * PART_BYTES) for number in range(3)] == PARTS
        assert machine.plugins.part("p", 3 * PART_BYTES) is None
        assert machine.plugins.part("p", 1) is None
        assert machine.plugins.part("q", 0) is None
    assert cluster.apply(RetirePlugin("p")) == ""
    cluster.reopened()
    assert [*cluster.engine.scan(WHEELS, b"", None), *cluster.engine.scan(PLUGINS, b"", None)] == []


def test_an_upload_goes_on_after_a_restart(cluster: Cluster) -> None:
    cluster.apply(AdmitPlugin("p", b"{}", DIGEST, SIZE))
    cluster.apply(part(0))
    cluster.machine = cluster.reopened()
    assert cluster.machine.plugins.by_name["p"].received == PART_BYTES
    assert cluster.apply(AdmitPlugin("p", b"[]", DIGEST, SIZE)) == "", "the same wheel"
    assert cluster.apply(part(1)) == ""
    assert cluster.machine.plugins.by_name["p"].received == 2 * PART_BYTES


@pytest.mark.parametrize("bad", range(3))
def test_a_wheel_that_is_not_as_admitted_is_dropped_and_can_be_sent_again(cluster: Cluster, bad: int) -> None:
    cluster.apply(AdmitPlugin("p", b"{}", DIGEST, SIZE))
    spoilt = [b"\x09" * len(data) if number == bad else data for number, data in enumerate(PARTS)]
    for number in range(2):
        assert cluster.apply(part(number, spoilt[number])) == ""
        cluster.machine = cluster.reopened()
    assert "its SHA-256 differs" in cluster.apply(part(2, spoilt[2]))
    assert cluster.reopened().plugins.by_name["p"].received == 0
    assert list(cluster.engine.scan(WHEELS, b"", None)) == []
    for number in range(3):
        assert cluster.apply(part(number)) == ""
    assert cluster.reopened().plugins.by_name["p"].received == SIZE


def test_another_wheel_begins_anew(cluster: Cluster) -> None:
    cluster.apply(AdmitPlugin("p", b"{}", DIGEST, SIZE))
    cluster.apply(part(0))
    other = sha256(b"12345").digest()
    assert cluster.apply(AdmitPlugin("p", b"{}", other, 5)) == ""
    assert "no such wheel is expected" in cluster.apply(part(1))
    assert cluster.apply(part(0, b"12345", other)) == ""
    assert cluster.reopened().plugins.part("p", 0) == b"12345"
    assert len(list(cluster.engine.scan(WHEELS, b"", None))) == 1


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (AdmitPlugin("", b"{}"), "a name has"),
        (AdmitPlugin("x" * 65, b"{}"), "a name has"),
        (AdmitPlugin("x", bytes(MAX_DOCUMENT_BYTES + 1)), "a name has"),
        (AdmitPlugin("x", b"{}", b"short", 5), "a wheel has a digest"),
        (AdmitPlugin("x", b"{}", DIGEST, 0), "a wheel has a digest"),
        (AdmitPlugin("x", b"{}", DIGEST, MAX_WHEEL_BYTES + 1), "a wheel has a digest"),
        (part(1), f"send the wheel from byte {0} on"),
        (part(0, b"short"), f"send parts of {PART_BYTES} bytes"),
        (part(0, b""), f"send parts of {PART_BYTES} bytes"),
        (part(0, digest_=b"other"), "no such wheel is expected"),
        (PutWheelPart("q", DIGEST, 0, b"x"), "no such wheel is expected"),
        (PutWheelPart("p", DIGEST, 2**63, b"x"), "send the wheel from byte 0 on"),
    ],
)
def test_what_cannot_be_is_refused_alike_by_all(cluster: Cluster, command: Command, words: str) -> None:
    cluster.apply(AdmitPlugin("p", b"{}", DIGEST, SIZE))
    before = cluster.machine.plugins.content()
    assert words in cluster.apply(command)
    assert cluster.machine.plugins.content() == before


def test_so_many_plugins_and_no_more(cluster: Cluster) -> None:
    for number in range(MAX_PLUGINS):
        assert cluster.apply(AdmitPlugin(f"p{number}", b"{}")) == ""
    assert "retire one first" in cluster.apply(AdmitPlugin("more", b"{}"))
    assert cluster.apply(AdmitPlugin("p0", b"[]")) == "", "one that is known changes"


def test_the_commands_are_of_a_level_of_their_own() -> None:
    machine = Machine(memory_engine())
    for command in (AdmitPlugin("p", b"{}"), part(0), RetirePlugin("p")):
        assert machine.level_of(encode(command)) == 2
