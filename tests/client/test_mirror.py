"""What the mirrors of both APIs have in common: when a source counts as the one that was copied, and what is
compared when.
"""

from __future__ import annotations

import os
import re
import socket
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
import trio

from netstore.client import mirror, mirror_v2, mirror_v3
from netstore.client.faults import CertificateRefused, Unreachable
from netstore.client.grpc import RESOURCE_EXHAUSTED, Status
from netstore.client.mirror import NotMirrored, OneWay, Patience, Proof, Reconnected
from netstore.client.mirror_v2_nodes import Scope
from netstore.client.v2 import WATCHER_CLEARED, V2Error
from tests.client import test_mirror_v2 as v2
from tests.client import test_mirror_v3 as v3
from tests.client.test_mirror_v3 import Log
from tests.support.cluster import put
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.daemon import Daemon
    from tests.support.twins import Twins


class Api(NamedTuple):
    """One of both, as a test uses it."""

    write: Callable[[Daemon, str, int], None]
    """Write as many keys with this prefix, each by a change of its own."""
    open_clients: Callable[..., Any]
    mirrored: Callable[..., OneWay]
    keys: Callable[[Any], Any]
    """The names of the keys of a store, given its client."""
    put: Callable[[Any, str], Awaitable[int]]
    """Write a key, with the client of the source; its index, or revision."""
    forget: Callable[[Any, str], Awaitable[int]]
    """Change a key, and delete it last, so that the source forgets all that was before."""
    remove: Callable[[Any, str], Awaitable[int]]
    """Delete a key; the index, or revision, of that."""
    scope: Any
    """The keys that begin with `a/`."""
    kind: type[OneWay]
    step: str
    """The method of the mirror that carries out a part of a comparison."""


def _write_v2(daemon: Daemon, prefix: str, number_of: int) -> None:
    for number in range(number_of):
        assert put(daemon, f"{prefix}/{number}", prefix).status in {200, 201}


def _write_v3(daemon: Daemon, prefix: str, number_of: int) -> None:
    v3.write_keys(daemon, f"{prefix}/".encode(), number_of)


async def _keys_v2(client: Any) -> set[str]:
    return {key for key, (value, _) in (await v2.content(client)).items() if value is not None}


async def _keys_v3(client: Any) -> set[str]:
    return {f"/{key.decode()}" for key in await v3.content(client)}


_values = count()


async def _put_v2(client: Any, key: str) -> int:
    return int((await client.set(key, str(next(_values)))).etcd_index)


async def _put_v3(client: Any, key: str) -> int:
    return await v3.put(client, (key.encode(), str(next(_values)).encode()))


async def _remove_v2(client: Any, key: str) -> int:
    return int((await client.delete(key)).etcd_index)


async def _remove_v3(client: Any, key: str) -> int:
    return await v3.put(client, (key.encode(), None))


async def _forget_v2(client: Any, key: str) -> int:
    for _ in range(1005):
        await _put_v2(client, key)
    return int((await client.delete(key)).etcd_index)


async def _forget_v3(client: Any, key: str) -> int:
    await _put_v3(client, key)
    revision = await v3.put(client, (key.encode(), None))
    await v3.compact(client, revision)
    return revision


APIS = {
    "v2": Api(
        _write_v2,
        v2.open_clients,
        v2.mirrored,
        _keys_v2,
        _put_v2,
        _forget_v2,
        _remove_v2,
        Scope("/a", "/a", "/_mirrored"),
        mirror_v2.Mirror,
        "_compare_node",
    ),
    "v3": Api(
        _write_v3,
        v3.open_clients,
        v3.mirrored,
        _keys_v3,
        _put_v3,
        _forget_v3,
        _remove_v3,
        mirror_v3.Scope(b"a/", b"a/", b"mirrored"),
        mirror_v3.Mirror,
        "_write",
    ),
}


@pytest.fixture(params=sorted(APIS))
def api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Api:
    monkeypatch.setattr(mirror, "RETRY_DELAYS", (0.05,))
    monkeypatch.setattr(mirror_v3, "FIRST_PAGE", 2)
    monkeypatch.setattr(mirror_v3, "LARGEST_PAGE", 2)
    monkeypatch.setattr(mirror_v3, "MOST_OPERATIONS", 2)
    chosen: Api = APIS[request.param]
    return chosen


def names(prefix: str, number_of: int) -> set[str]:
    return {f"/{prefix}/{number}" for number in range(number_of)}


def after_step(api: Api, monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    """Do something after so many parts of a comparison, once."""
    do, done = getattr(api.kind, api.step), [0]

    async def step(self: OneWay, proof: Proof, *more: Any, **named: Any) -> Any:
        result = await do(self, proof, *more, **named)
        done[0] += 1
        if done[0] == number:
            await trio.to_thread.run_sync(action)
        return result

    monkeypatch.setattr(api.kind, api.step, step)


@pytest.mark.parametrize("is_put_back", [True, False], ids=["put back", "begun anew"])
@pytest.mark.parametrize("way", ["copy", "follow"])
def test_a_source_that_is_replaced_while_it_is_compared_is_refused(
    api: Api, twins: Twins, monkeypatch: pytest.MonkeyPatch, way: str, *, is_put_back: bool
) -> None:
    api.write(twins.begin(), "a", 4)
    before = twins.copy("before")
    api.write(source := twins.begin(of=before), "z", 10)

    def replace() -> None:
        twins.begin(of=before if is_put_back else None, write=lambda hidden: api.write(hidden, "b", 60))

    async def work() -> None:
        async with api.open_clients(source, twins.target) as (one, other):
            await api.mirrored(one, other, Log()).copy()
            await trio.to_thread.run_sync(lambda: api.write(source, "b", 6))
            after_step(api, monkeypatch, 2, replace)
            again = api.mirrored(one, other, Log())
            begin = again._begin

            async def begin_behind() -> None:
                await begin()
                again._is_behind = True

            monkeypatch.setattr(again, "_begin", begin_behind)
            with pytest.raises(NotMirrored, match="SOURCE"), trio.fail_after(seconds(v2.LIMIT)):
                await getattr(again, way)()
            assert await api.keys(other) >= names("a", 4) | names("z", 10), "the target has lost nothing"

    v2.run(work)


def test_a_source_that_is_begun_again_as_it_was_is_compared_again(
    api: Api, twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.write(source := twins.begin(), "a", 4)
    api.write(source, "z", 10)

    def restart() -> None:
        copied = twins.copy("same")
        twins.begin(of=copied)

    async def work() -> None:
        async with api.open_clients(source, twins.target) as (one, other):
            log = Log()
            after_step(api, monkeypatch, 2, restart)
            await api.mirrored(one, other, log).copy()
            assert await api.keys(other) == names("a", 4) | names("z", 10)
            assert "the connection to SOURCE was made anew" in log.troubles[0]
            assert log.troubles[1:] == [""], "and that it goes on"

    v2.run(work)


def test_a_first_copy_that_was_interrupted_is_not_overwritten_by_another_source(
    api: Api, twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.write(source := twins.begin(), "a", 4)
    api.write(source, "z", 10)

    async def work() -> None:
        async with api.open_clients(source, twins.target) as (one, other):
            with monkeypatch.context() as patched, trio.CancelScope() as scope:
                after_step(api, patched, 3, scope.cancel)
                await api.mirrored(one, other, Log()).copy()
            there = await api.keys(other)
            assert there
            await trio.to_thread.run_sync(
                lambda: twins.begin(write=lambda hidden: api.write(hidden, "b", 60))
            )
            for way in ("copy", "follow"):
                with pytest.raises(NotMirrored, match="SOURCE"):
                    await getattr(api.mirrored(one, other, Log()), way)()
            assert await api.keys(other) == there
            await api.mirrored(one, other, Log(), overwrite=True).copy()
            assert await api.keys(other) == names("b", 60)

    v2.run(work)


def test_an_overwrite_that_was_interrupted_goes_on_with_overwrite_only(
    api: Api, twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.write(source := twins.begin(), "a", 4)

    async def work() -> None:
        async with api.open_clients(source, twins.target) as (one, other):
            await api.mirrored(one, other, Log()).copy()
            await trio.to_thread.run_sync(
                lambda: twins.begin(write=lambda hidden: api.write(hidden, "b", 60))
            )
            with monkeypatch.context() as patched, trio.CancelScope() as scope:
                after_step(api, patched, 2, scope.cancel)
                await api.mirrored(one, other, Log(), overwrite=True).copy()
            there = await api.keys(other)
            for way in ("copy", "follow"):
                with pytest.raises(NotMirrored, match="a run with --overwrite was interrupted"):
                    await getattr(api.mirrored(one, other, Log()), way)()
            assert await api.keys(other) == there
            await api.mirrored(one, other, Log(), overwrite=True).copy()
            assert await api.keys(other) == names("b", 60)
            await api.mirrored(one, other, Log()).copy()

    v2.run(work)


@pytest.mark.parametrize("changed", ["a/0", "b/other"], ids=["a deletion last", "a quiet prefix"])
def test_what_is_forgotten_after_the_newest_key_is_compared_once(
    api: Api, twins: Twins, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    api.write(source := twins.begin(), "a", 2)
    calls = v3.counted(monkeypatch, api.kind, "_compare")

    async def work() -> None:
        async with api.open_clients(source, twins.target) as (one, other):
            await api.mirrored(one, other, Log(), api.scope).copy()
            index = await api.forget(one, changed)
            calls.clear()
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(api.mirrored(one, other, log, api.scope).follow)
                await log.reached(index)
                for _ in range(20):  # each by an event, or each by a comparison of its own
                    await log.reached(await api.put(one, "a/z"))
                nursery.cancel_scope.cancel()
            assert calls == ["_compare"]
            assert await api.keys(other) == (names("a", 2) | {"/a/z"}) - {f"/{changed}"}

    v2.run(work)


def test_a_run_goes_on_after_a_break_though_its_last_change_is_forgotten(
    api: Api, twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_v2, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(mirror_v3, "STANDBY_SECONDS", 0.05)
    api.write(source := twins.begin(), "a", 2)
    calls = v3.counted(monkeypatch, api.kind, "_prove")

    async def work() -> None:
        async with api.open_clients(source, twins.target) as (one, other):
            log = Log()
            following = api.mirrored(one, other, log, api.scope)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(following.follow)
                await log.reached(await api.put(one, "a/1"))
                await log.reached(await api.remove(one, "a/1"))
                assert following._standby is None, "the newest key has gone"
                await api.forget(one, "b/other")
                await log.until(lambda: following._standby is not None)
                calls.clear()
                await trio.to_thread.run_sync(lambda: twins.begin(of=twins.copy("same")))
                async with api.open_clients(source, twins.target) as (again, _):
                    await log.reached(await api.put(again, "a/z"))
                nursery.cancel_scope.cancel()
            assert calls, "the connection was made anew"
            assert await api.keys(other) == {"/a/0", "/a/z"}

    v2.run(work)


def test_what_a_standby_does_not_show_is_compared(
    api: Api, twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.write(source := twins.begin(), "a", 2)
    calls = v3.counted(monkeypatch, api.kind, "_compare")

    async def work() -> None:
        async with api.open_clients(source, twins.target) as (one, other):
            log = Log()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(api.mirrored(one, other, log, api.scope).follow)
                await log.reached(await api.put(one, "a/1"))
                await log.reached(await api.remove(one, "a/0"))
                nursery.cancel_scope.cancel()
            await api.put(other, "a/0")  # as if the source had been put back to before the deletion
            await api.forget(one, "b/other")
            calls.clear()
            await api.mirrored(one, other, Log(), api.scope).copy()
            assert await api.keys(other) == {"/a/1"}
            await api.put(one, "a/1")
            await api.forget(one, "b/other")
            with pytest.raises(mirror.Another, match="cannot be shown"):
                await api.mirrored(one, other, Log(), api.scope).copy()
            assert calls == ["_compare"]

    v2.run(work)


def test_the_newest_key_is_known_until_it_is_changed_to_an_older_one(api: Api) -> None:
    def witness(key: str, revision: int, *, quiet: bool = False) -> mirror.Witness:
        return mirror.Witness(key.encode().hex(), revision, revision, quiet=quiet)

    kept = api.mirrored(object(), object(), Log())  # neither is asked

    def standby() -> mirror.Witness | None:
        return kept._standby

    kept._changed(5, witness("a", 5), was_standby=False)
    kept._changed(6, None, was_standby=False)
    kept._changed(7, witness("b", 3, quiet=True), was_standby=False)  # of a node that is older
    assert standby() == witness("a", 5)
    kept._changed(4, witness("c", 4), was_standby=False)  # an event of the past
    assert standby() == witness("a", 5)
    kept._changed(8, witness("c", 8, quiet=True), was_standby=False)
    kept._changed(9, witness("c", 8, quiet=True), was_standby=True)
    assert standby() == witness("c", 8, quiet=True)
    kept._changed(10, witness("c", 7, quiet=True), was_standby=True)
    assert standby() is None
    kept._changed(11, witness("b", 3, quiet=True), was_standby=False)
    assert standby() is None, "it is not known which one is the newest"
    kept._changed(12, witness("d", 12), was_standby=False)
    kept._changed(13, None, was_standby=True)
    assert standby() is None


def test_the_run_that_has_begun_last_goes_on(api: Api, twins: Twins, monkeypatch: pytest.MonkeyPatch) -> None:
    api.write(source := twins.begin(), "a", 2)
    checkpoint = "/_mirrored" if api.kind is mirror_v2.Mirror else "mirrored"

    async def work() -> None:
        async with api.open_clients(source, twins.target) as (one, other):
            first, second = api.mirrored(one, other, Log()), api.mirrored(one, other, Log())
            await first.copy()
            commit: Any = getattr(second, "_commit")  # noqa: B009 - of both
            commits: list[Any] = []

            async def after_the_first(*more: Any) -> Any:
                commits.append(more)
                if len(commits) <= 3:
                    await first._save()
                return await commit(*more)

            monkeypatch.setattr(second, "_commit", after_the_first)
            await second.copy()
            assert len(commits) > 4
            name = re.escape(socket.gethostname())
            with pytest.raises(NotMirrored, match=f"has begun later, {name} process {os.getpid()} run"):
                await first._save()
            await second._save()
            await api.remove(other, checkpoint)
            with pytest.raises(NotMirrored, match="was removed, or something else was written into it"):
                await second._save()

    v2.run(work)


def test_one_copy_ends_where_each_connection_is_closed(
    api: Api, twins: Twins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "RETRY_DELAYS", (0.0,))
    api.write(source := twins.begin(), "a", 4)

    async def work() -> None:
        async with api.open_clients(source, twins.target) as (one, other):
            copying = api.mirrored(one, other, log := Log())
            tries = []

            async def broken(proof: Proof) -> None:
                tries.append(proof)
                raise Reconnected

            monkeypatch.setattr(copying, "_compare", broken)
            with pytest.raises(Reconnected):
                await copying.copy()
            assert (len(tries), len(log.troubles)) == (mirror.MOST_BREAKS, 1)
            assert await api.keys(other) == set()

    v2.run(work)


def test_a_proof_ends_with_a_new_connection() -> None:
    breaks = [3]
    proof = Proof(lambda: breaks[0])
    proof.check()
    breaks[0] += 1
    assert not proof.holds
    with pytest.raises(Reconnected, match="made anew"):
        proof.check()


REFUSED = CertificateRefused("TLS: not trusted")


@pytest.mark.parametrize(
    ("error", "may_pass"),
    [
        (Unreachable([("a", "refused")], outcome_known=True), True),
        (Unreachable([("a", REFUSED), ("b", "refused")], outcome_known=True), True),
        (Unreachable([("a", REFUSED), ("b", REFUSED)], outcome_known=True), False),
        (Reconnected(), False),
        (Status("a", RESOURCE_EXHAUSTED, "etcdserver: too many requests", write=True), True),
        (Status("a", RESOURCE_EXHAUSTED, "grpc: received message larger than max", write=True), False),
        (V2Error(WATCHER_CLEARED, "watcher is cleared"), True),
        (V2Error(110, "not authorized"), False),
    ],
)
def test_what_only_somebody_can_change_is_not_repeated(
    error: Any, monkeypatch: pytest.MonkeyPatch, *, may_pass: bool
) -> None:
    monkeypatch.setattr(mirror, "RETRY_DELAYS", (0.0,))
    troubles: list[str] = []
    patience = Patience(troubles.append)
    patience.is_endless = True
    calls: list[int] = []

    async def action() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise error
        return 1

    async def work() -> None:
        if may_pass:
            assert await patience.persist(action) == 1
            assert troubles == [str(error), ""]
        else:
            with pytest.raises(type(error)):
                await patience.persist(action)

    trio.run(work)


def test_a_target_that_was_emptied_or_put_back_leads_to_another_run() -> None:
    checkpoint = msgspec.json.encode(mirror.Checkpoint("a", "", 1, "host process 1 run 2", 3))
    assert "if TARGET was emptied or put back, run this again" in str(mirror.TakenOver("/k", None))
    assert "TARGET was put back to when it did: run this again" in str(mirror.TakenOver("/k", checkpoint))
