"""`netstorectl mirror`: its command line. What it copies: `tests/client/test_mirror.py`."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from netstore.cli.commands import mirror
from netstore.cli.commands.failures import refused
from netstore.proto.rpc_pb2 import PutRequest, RangeRequest
from tests.cli.commands.conftest import DEAD
from tests.support.daemon import start_netstored
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from netstore.cli.commands.invocation import Settings
    from tests.cli.commands.conftest import Run


def test_it_copies_a_prefix_once(run: Run, store: str, tmp_path: Path) -> None:
    client = V3Client(store)
    for key in (b"/mirrored/a", b"/mirrored/b", b"/other"):
        client.kv.Put(PutRequest(key=key, value=b"v"))
    with start_netstored(tmp_path) as target:
        words = ("mirror", store, target.url, "--once", "--keys", "/mirrored/", "--target-prefix", "/here/")
        told = run(*words, "-o", "json")
        assert told.status == 0, told.err
        assert told.document["written"] == 2
        found = V3Client(target.url).kv.Range(RangeRequest(key=b"/", range_end=b"0"))
        assert [pair.key for pair in found.kvs] == [b"/here/a", b"/here/b"]
        again = run(*words, "-o", "json")
        assert (again.document["written"], again.document["deleted"]) == (0, 0)
        other = run("mirror", store, target.url, "--once")
        assert other.status == 1
        assert "name another checkpoint, or delete this key" in other.err
    client.close()


def test_stores_that_do_not_answer(run: Run, store: str) -> None:
    told = run("mirror", DEAD, store, "--once")
    assert told.status == 4
    told = run("mirror", store, DEAD, "--once", "--checkpoint", "another")
    assert told.status == 4


def test_a_command_line_that_is_wrong(run: Run) -> None:
    told = run("mirror", DEAD, DEAD, "--checkpoint", "")
    assert told.status == 2
    assert "--checkpoint: is empty" in told.err


def test_the_password_of_the_source_is_not_shown_to_the_target(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str | None, str | None]] = []

    @asynccontextmanager
    async def client(settings: Settings) -> AsyncIterator[None]:
        asked.append((settings.endpoints, settings.username))
        if len(asked) == 2:
            raise refused("enough")
        yield

    monkeypatch.setattr(mirror, "v3_client", client)
    told = run("--username", "a:secret", "mirror", "http://one:1", "http://two:1")
    assert told.status == 1
    assert asked == [("http://one:1", "a:secret"), ("http://two:1", None)]
