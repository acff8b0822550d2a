"""What a start does about stored data that is sound, damaged, or all that is left of a cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from netstore.disk.datadir import MemberIdentity
from netstore.errors import CorruptData
from netstore.node.recovery import recover
from netstore.raft.config import Boot
from netstore.raft.entry import ConfState, HardState, SnapshotMeta
from netstore.types import ClusterId, Index, NodeId
from tests.support.links import Quiet

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from netstore.node.identity import Enrollment
    from netstore.node.storage import Storage
    from netstore.raft.core import Raft

OWN = NodeId(1)


class Start:
    """An enrollment and the storages it opens, one after the other; what is done is listed."""

    def __init__(self, *storages: Exception | tuple[NodeId, ...], force_new: bool = False) -> None:
        """Each storage: the voters in its log, or what opening it raises."""
        self.steps: list[object] = []
        self.settings = SimpleNamespace(force_new=force_new)
        self.identity = MemberIdentity(ClusterId(5), OWN, "a")
        self.refusal: Exception | None = None
        self.lines = Quiet()
        self._storages = list(storages)

    def first_members(self) -> Mapping[NodeId, Sequence[str]]:
        return {OWN: ("http://a:1",)}

    async def meet(self) -> None:
        self.steps.append("meet")

    async def replace(self, damage: CorruptData) -> None:
        self.steps.append(str(damage))
        if self.refusal is not None:
            raise self.refusal

    def open(self) -> Any:
        storage = self._storages.pop(0)
        self.steps.append("open")
        if isinstance(storage, Exception):
            raise storage
        meta = SnapshotMeta(conf=ConfState(voters=storage))

        def boot(first: object) -> Boot:
            assert first == self.first_members()
            return Boot(hard_state=HardState(), snapshot=meta, entries=[], applied=Index(0))

        async def begin_anew(own: NodeId) -> None:
            self.steps.append(("alone", own))

        return SimpleNamespace(
            boot=boot, begin_anew=begin_anew, close=lambda: self.steps.append("close"), voters=storage
        )

    async def run(self) -> tuple[Storage, Raft]:
        return await recover(
            self.open, cast("Enrollment", self), election_ticks=10, below=lambda _: 0, log=self.lines
        )


async def test_sound_data_is_opened_and_goes_on() -> None:
    start = Start((OWN,))
    _, raft = await start.run()
    assert raft.id == OWN
    assert start.steps == ["open"]
    assert len(start.lines.events("member_recovered")) == 1


async def test_a_member_without_a_configuration_asks_for_the_others() -> None:
    start = Start(())
    await start.run()
    assert start.steps == ["open", "meet"]


async def test_damage_is_replaced_by_what_opens() -> None:
    start = Start(CorruptData("damage"), ())
    storage, _ = await start.run()
    assert start.steps == ["open", "damage", "open", "meet"]
    assert cast("Any", storage).voters == ()


async def test_damage_that_cannot_be_replaced_is_raised() -> None:
    start = Start(CorruptData("damage"))
    start.refusal = CorruptData("damage; nobody agrees")
    with pytest.raises(CorruptData, match="damage; nobody agrees"):
        await start.run()
    assert start.steps == ["open", "damage"]


async def test_the_last_member_left_begins_alone_and_is_not_replaced() -> None:
    start = Start((OWN,), force_new=True)
    await start.run()
    assert start.steps == ["open", ("alone", OWN)]
    start = Start(CorruptData("damage"), force_new=True)
    with pytest.raises(CorruptData, match=r"^damage$"):
        await start.run()
    assert start.steps == ["open"]


async def test_a_storage_that_leads_to_no_core_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    start = Start(())

    async def fail() -> None:
        raise OSError(5, "nobody answers")

    monkeypatch.setattr(start, "meet", fail)
    with pytest.raises(OSError, match="nobody answers"):
        await start.run()
    assert start.steps == ["open", "close"]
