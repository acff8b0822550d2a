"""`netstorectl mirror`: its command line. What it copies: `tests/client/test_mirror_v2.py` and its twin."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from netstore.cli.commands import mirror
from netstore.cli.commands.failures import refused
from netstore.cli.commands.options import NAME
from netstore.client.grpc import RESOURCE_EXHAUSTED, UNAUTHENTICATED, Status
from netstore.client.v2 import V2Error
from netstore.proto.rpc_pb2 import PutRequest, RangeRequest
from tests.cli.commands.conftest import DEAD
from tests.support.daemon import ROOT, start_netstored
from tests.support.patience import seconds, until
from tests.support.peers import start_etcd
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from netstore.cli.commands.invocation import Settings
    from netstore.client.faults import ClientError
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
        assert (told.document["v2Written"], told.document["v2Deleted"]) == (0, 0)
        again = run(*words, "-o", "json")
        assert (again.document["written"], again.document["deleted"]) == (0, 0)
        other = run("mirror", store, target.url, "--once")
        assert other.status == 1
        assert "name another key by --checkpoint, or delete this one" in other.err
    client.close()


def test_it_copies_the_keys_of_both_apis_or_of_one(run: Run, store: str, tmp_path: Path) -> None:
    client = V3Client(store)
    client.kv.Put(PutRequest(key=b"/two/v3", value=b"v"))
    client.close()
    for key in ("/two/v2/a", "/two/b", "/twofold"):
        assert run("--endpoints", store, "key", "set", key, "v").status == 0
    with start_netstored(tmp_path) as target:
        words = ("mirror", store, target.url, "--once", "--keys", "/two/")
        counts = {"": (1, 4), "v3": (1, None), "v2": (None, 4)}  # a folder counts too
        for api, wanted in counts.items():
            more = ("--api", api) if api else ()
            place = ("--target-prefix", f"/{api or 'both'}/", "--checkpoint", f"c{api}")
            told = run(*words, *more, *place, "-o", "json")
            assert told.status == 0, told.err
            assert (told.document.get("written"), told.document.get("v2Written")) == wanted
        keys = {row[0] for row in run("--endpoints", target.url, "key", "ls", "-r", "/").rows}
        assert keys >= {"/both/v2/a", "/both/b", "/v2/v2/a", "/v2/b"}
        assert not any(key.startswith(("/v3", "/c")) for key in keys)


@pytest.mark.peer("etcd")
@pytest.mark.slow
def test_stores_without_the_v2_api(run: Run, tmp_path: Path) -> None:
    (tmp_path / "etcd").mkdir()
    with (
        start_etcd(tmp_path / "etcd", "--enable-v2=false") as plain,
        start_netstored(tmp_path) as both,
    ):
        told = run("mirror", plain.url, both.url, "--once", "-o", "json")
        assert told.status == 0, told.err
        assert "SOURCE does not serve the v2 API: its v3 keys are copied" in told.err
        assert "v2Index" not in told.document
        told = run("mirror", plain.url, both.url, "--once", "--api", "v2")
        assert told.status == 4
        assert "is the v2 API on there (etcd: --enable-v2)?" in told.err
        words = ("mirror", both.url, plain.url, "--once", "--overwrite", "--checkpoint", "back")
        told = run(*words)
        assert told.status == 0, told.err
        assert "TARGET does not serve the v2 API: the v3 keys are copied" in told.err
        assert run("--endpoints", both.url, "key", "set", "/a", "v").status == 0
        told = run(*words)
        assert told.status == 1
        assert "or leave them out with --api v3" in told.err
        assert run(*words, "--api", "v3").status == 0


def test_it_follows_until_it_is_interrupted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with start_netstored(tmp_path / "one") as source, start_netstored(tmp_path) as target:
        command = [sys.executable, "-m", "netstore.cli.netstorectl", "mirror", source.url, target.url]
        ctl = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            for key in ("/a", "/b"):
                assert run("--endpoints", source.url, "key", "set", key, "v").status == 0
                until(partial(has, run, target.url, key), "it is followed")
            ctl.send_signal(signal.SIGINT)
            out, err = ctl.communicate(timeout=seconds(20))
        finally:
            ctl.kill()
        assert ctl.returncode == 130, err
        assert "Traceback" not in err
        assert not out


def has(run: Run, url: str, key: str) -> bool:
    return run("--endpoints", url, "key", "get", key).status == 0


def test_stores_that_do_not_answer(run: Run, store: str) -> None:
    told = run("mirror", DEAD, store, "--once")
    assert told.status == 4
    assert told.err.startswith("netstorectl: SOURCE: no endpoint answered")
    assert "check SOURCE and that the store runs there" in told.err
    told = run("mirror", store, DEAD, "--once", "--checkpoint", "another")
    assert told.status == 4
    assert told.err.startswith("netstorectl: TARGET: no endpoint answered")


def test_a_refusal_names_the_store_and_its_options(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = [
        (Status("http://two:1", UNAUTHENTICATED, "who?"), "TARGET: .* give --target-username"),
        (Status("http://one:1", UNAUTHENTICATED, "who?"), "SOURCE: .* give --username"),
        (Status("http://two:1", RESOURCE_EXHAUSTED, "space exceeded"), "TARGET: space exceeded"),
        (V2Error(110, "who?", endpoint="http://two:1"), "TARGET: .* give --target-username"),
    ]
    for refusal, text in refusals:

        async def do(_work: object, _api: object, refusal: ClientError = refusal) -> None:
            raise refusal

        monkeypatch.setattr(mirror._Work, "do", do)
        told = run("mirror", "http://one:1", "http://two:1", "--once")
        assert told.status == 1
        assert re.match(f"netstorectl: {text}", told.err)


def test_the_page_names_the_fields_that_are_shown(run: Run, store: str, tmp_path: Path) -> None:
    page = (ROOT / "man" / "netstorectl.1").read_text()
    part = page[page.index(".It Ic mirror") : page.index(".Ss The rest")]
    heads = re.findall(r"^\.It Li (.*)$", part, re.MULTILINE)
    with start_netstored(tmp_path) as target:
        told = run("mirror", store, target.url, "--once", "-o", "json")
    assert told.status == 0, told.err
    assert told.document.keys() == {name for head in heads for name in head.split(" , ")}


@pytest.mark.parametrize("option", ["--keys", "--target-prefix", "--checkpoint"])
def test_a_name_that_is_not_utf_8_is_for_v3_keys(run: Run, option: str) -> None:
    told = run("mirror", DEAD, DEAD, option, os.fsdecode(b"\xff"))
    assert told.status == 2, told.err
    assert f"{option}: is not UTF-8, as names of the v2 API are: copy these v3 keys with --api v3" in told.err


def test_a_v3_prefix_may_be_any_bytes(run: Run, store: str, tmp_path: Path) -> None:
    client = V3Client(store)
    client.kv.Put(PutRequest(key=b"/\xff/a", value=b"v"))
    client.close()
    names = ("--keys", os.fsdecode(b"/\xff/"), "--target-prefix", os.fsdecode(b"\xfe"))
    with start_netstored(tmp_path) as target:
        checkpoint = os.fsdecode(b"c\xff")
        told = run("mirror", store, target.url, "--api", "v3", "--once", *names, "--checkpoint", checkpoint)
        assert told.status == 0, told.err
        found = V3Client(target.url).kv.Range(RangeRequest(key=b"\0", range_end=b"\0", keys_only=True))
        assert [pair.key for pair in found.kvs] == [b"c\xff", b"\xfea"]


def test_a_command_line_that_is_wrong(run: Run) -> None:
    told = run("mirror", DEAD, DEAD, "--checkpoint", "")
    assert told.status == 2
    assert "--checkpoint: is empty" in told.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("http://a:1 http://b:2 --ca-file f", "--ca-file: has no effect at http://a:1,http://b:2: write"),
        ("https://a:1 http://b:2 --target-ca-file f", "--target-ca-file: has no effect at http://b:2: write"),
        (
            "http://a:1 https://b:2 --cert-file f --key-file f --target-cert-file f --target-key-file f",
            "--cert-file: has no effect at http://a:1: write",
        ),
        ("https://a:1 http://b:2 --ca-file none", "--ca-file: none: No such file"),
        ("http://a:1 https://b:2 --ca-file none", "--ca-file: none: No such file"),
        ("http://a:1 https://b:2 --target-ca-file none", "--target-ca-file: none: No such file"),
        ("u@a:1 b:2", "SOURCE: give the user name with --username, not in the address"),
        ("a:1 u@b:2", "TARGET: give the user name with --target-username, not in the address"),
        ("a:1 b:2 --target-username x", "--target-username x: no password"),
    ],
)
def test_an_option_that_has_no_effect_or_cannot_be_used_is_named_as_it_was_given(
    run: Run, words: str, text: str
) -> None:
    told = run("mirror", *words.split())
    assert told.status == 2, told.err
    assert text in told.err


def test_files_that_cannot_be_read_are_told_as_those_of_other_commands() -> None:
    files = {
        each.name: each.type
        for each in mirror.mirror.params
        if each.name and each.name.startswith("target_") and each.name.endswith("_file")
    }
    assert len(files) == 3
    assert set(files.values()) == {NAME}


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
