"""`netstorectl mirror` between stores as sites have them: TLS with certificates of both sides, users with
passwords, several members of which one is killed, stores that are killed and started again, and a source that
is replaced.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from base64 import b64encode
from contextlib import closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import httpx
import pytest

from netstore.proto.rpc_pb2 import PutRequest, RangeRequest
from tests.support.certificates import Certificates
from tests.support.cluster import Members, get, put
from tests.support.daemon import (
    ROOT,
    clean_environment,
    free_port,
    launch,
    netstored_command,
    start_netstored,
)
from tests.support.patience import seconds, until
from tests.support.peers import start_etcd
from tests.support.twins import Twins
from tests.support.v3client import Refused, V3Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon


@contextmanager
def mirror(*words: str, refusal: str = "") -> Iterator[None]:
    """A mirror that follows, and has nothing to say but what it says when it is interrupted; with `refusal`
    one that has ended itself by then, with this text.
    """
    command = (sys.executable, "-m", "netstore.cli.netstorectl", "mirror", *words)
    process = subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield
        if not refusal:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=seconds(40))
        assert process.returncode == (1 if refusal else 130), err
        assert refusal in err
        assert "Traceback" not in err
    except BaseException as error:
        process.kill()
        error.add_note("".join(process.communicate()))
        raise
    finally:
        process.kill()
        process.wait()


def write(daemon: Daemon, key: str, value: str) -> None:
    """The same key in both APIs."""
    assert put(daemon, key, value).status in {200, 201}
    client = V3Client(daemon.url)
    client.kv.Put(PutRequest(key=key.encode(), value=value.encode()))
    client.close()


def arrives(daemon: Daemon, key: str, value: str) -> None:
    """Wait until a key has this value in both APIs."""

    def is_there() -> bool:
        values: list[bytes] = []
        with closing(V3Client(daemon.url)) as client, suppress(Refused):  # as while a leader is elected
            values = [each.value for each in client.kv.Range(RangeRequest(key=key.encode())).kvs]
        return get(daemon, key) == value and values == [value.encode()]

    until(is_there, f"{key} arrives at {daemon.url}", limit=60)


@contextmanager
def guarded(folder: Path) -> Iterator[tuple[Daemon, str, Certificates]]:
    """A store that asks for certificates at its second address, which is given; the first is for tests."""
    folder.mkdir()
    files = Certificates(folder / "tls")
    port, tls_port = free_port(), free_port()
    flags = (
        *("--cert-file", str(files.certificate), "--key-file", str(files.key)),
        *("--trusted-ca-file", str(files.ca), "--client-cert-auth"),
    )
    command = netstored_command(folder / "data", *flags, port=port, also=f"https://127.0.0.1:{tls_port}")
    with launch(command, f"http://127.0.0.1:{port}", folder / "data", folder / "log") as daemon:
        yield daemon, f"https://127.0.0.1:{tls_port}", files


def shown(files: Certificates, prefix: str = "--") -> tuple[str, ...]:
    return (
        *(f"{prefix}ca-file", str(files.ca)),
        *(f"{prefix}cert-file", str(files.client_certificate)),
        *(f"{prefix}key-file", str(files.client_key)),
    )


def test_certificates_of_both_sides(tmp_path: Path) -> None:
    with (
        guarded(tmp_path / "one") as (source, source_url, files),
        guarded(tmp_path / "other") as (target, target_url, others),
    ):
        write(source, "a", "1")
        with mirror(source_url, target_url, *shown(files), *shown(others, "--target-")):
            arrives(target, "a", "1")
            write(source, "a", "2")
            arrives(target, "a", "2")


@pytest.mark.parametrize("is_source", [True, False], ids=["from https", "to https"])
def test_one_side_is_not_encrypted(tmp_path: Path, *, is_source: bool) -> None:
    with (
        guarded(tmp_path / "one") as (secret, url, files),
        start_netstored(tmp_path) as plain,
    ):
        source, target = (secret, plain) if is_source else (plain, secret)
        write(source, "a", "1")
        with mirror(*((url, plain.url) if is_source else (plain.url, url)), *shown(files)):
            arrives(target, "a", "1")


def guard(daemon: Daemon, password: str) -> str:
    """Let an etcd ask for the password of root in the v2 API; what names root there."""
    who = {"Authorization": f"Basic {b64encode(f'root:{password}'.encode()).decode()}"}
    nobody = {"read": ["/*"], "write": ["/*"]}
    for path, document in (
        ("users/root", {"user": "root", "password": password}),
        ("enable", {}),
        ("roles/guest", {"role": "guest", "revoke": {"kv": nobody}}),
    ):
        answer = httpx.put(f"{daemon.url}/v2/auth/{path}", json=document, headers=who, timeout=seconds(10))
        assert answer.is_success, answer.text
    return f"root:{password}"


@pytest.mark.peer("etcd")
@pytest.mark.slow
def test_users_of_both_sides(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with start_etcd(tmp_path / "one") as source, start_etcd(tmp_path / "other") as target:
        assert put(source, "a", "1").status == 201
        one, other = guard(source, "one"), guard(target, "other")
        words = ("mirror", source.url, target.url, "--once", "--api", "v2")
        for users, side, option in (
            ((), "SOURCE", "--username"),
            (("--username", other), "SOURCE", "--username"),
            (("--username", one), "TARGET", "--target-username"),
            (("--username", one, "--target-username", one), "TARGET", "--target-username"),
        ):
            done = ended(*words, *users)
            assert done.returncode == 1
            assert ended(*(word for word in words if word != "--once"), *users).returncode == 1
            assert f"{side}: the store wants to know who asks" in done.stderr
            assert f"give {option} of somebody who may, with the right password" in done.stderr
        done = ended(*words, "--username", one, "--target-username", other, "-o", "json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["v2Written"] == 1
        found = httpx.get(f"{target.url}/v2/keys/a", auth=("root", "other"), timeout=seconds(10))
        assert found.json()["node"]["value"] == "1"


STARTS: dict[str, Callable[..., Daemon]] = {"etcd": start_etcd, "netstored": start_netstored}
WITH_ETCD = (pytest.mark.peer("etcd"), pytest.mark.slow)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("etcd", "netstored", marks=WITH_ETCD),
        pytest.param("netstored", "etcd", marks=WITH_ETCD),
        ("netstored", "netstored"),
    ],
)
def test_both_sides_are_killed_and_started_again(tmp_path: Path, one: str, other: str) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with STARTS[one](tmp_path / "one") as source, STARTS[other](tmp_path / "other") as target:
        write(source, "k", "0")
        with mirror(source.url, target.url):
            arrives(target, "k", "0")
            for number, killed in enumerate(([source], [target], [source, target]), 1):
                for daemon in killed:
                    daemon.kill()
                for daemon in killed:
                    daemon.start_again()
                write(source, "k", str(number))
                arrives(target, "k", str(number))


@pytest.mark.parametrize(
    ("what", "refusal"),
    [
        ("empty", "SOURCE went back from"),
        ("begun anew", "the store that was copied"),
        ("put back", "the store that was copied"),
    ],
)
@pytest.mark.parametrize("api", ["v2", "v3"])
@pytest.mark.parametrize("start", [pytest.param("etcd", marks=WITH_ETCD), "netstored"])
def test_a_source_that_is_replaced_does_not_change_the_target(
    tmp_path: Path, start: str, api: str, what: str, refusal: str
) -> None:
    with start_netstored(tmp_path) as target:
        twins = Twins(tmp_path / "source", target, STARTS[start])
        write(twins.begin(), "shared", "1")
        before = twins.copy("before")
        write(source := twins.begin(of=before), "precious", "1")

        def fill(hidden: Daemon) -> None:
            for number in range(20):
                write(hidden, f"other{number}", "1")

        try:
            with mirror(source.url, target.url, "--api", api, refusal=refusal):
                until(lambda: api in there(target, "precious"), "the key arrives", limit=60)
                twins.begin(
                    of=before if what == "put back" else None, write=None if what == "empty" else fill
                )
        finally:
            twins.end()
        assert {*there(target, "precious"), *there(target, "shared")} == {api}
        assert not there(target, "other0")


def there(daemon: Daemon, key: str) -> set[str]:
    """The APIs that have the key."""
    with closing(V3Client(daemon.url)) as client:
        has_v3 = bool(client.kv.Range(RangeRequest(key=key.encode())).kvs)
    return {api for api, has in (("v2", get(daemon, key) is not None), ("v3", has_v3)) if has}


@pytest.mark.parametrize("is_source", [True, False], ids=["of the source", "of the target"])
def test_a_certificate_that_is_refused_ends_it(tmp_path: Path, *, is_source: bool) -> None:
    with (
        guarded(tmp_path / "one") as (_, url, files),
        start_netstored(tmp_path) as plain,
    ):
        words = ("mirror", *((url, plain.url) if is_source else (plain.url, url)))
        side = "SOURCE" if is_source else "TARGET"
        for given, text in (
            ((), "give its authority as"),
            (("--ca-file", str(files.ca)), "alert certificate required"),
        ):
            done = ended(*words, *given)
            assert done.returncode == 4, done.stderr
            assert f"{side}: no endpoint answered" in done.stderr
            assert text in done.stderr


def ended(*words: str) -> subprocess.CompletedProcess[str]:
    """A netstorectl that has ended."""
    command = (sys.executable, "-m", "netstore.cli.netstorectl", *words)
    return subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds(30),
    )


def leads_without(members: Members, name: str) -> bool:
    return members.leader() != name


def test_a_member_of_the_source_and_one_of_the_target_are_killed(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    with Members(tmp_path / "one") as source, Members(tmp_path / "other") as target:
        one, other = (",".join(each.url for each in members.daemons.values()) for members in (source, target))
        write(source["a"], "k", "0")
        with mirror(one, other):
            arrives(target["b"], "k", "0")
            for name, value in (("a", "1"), ("b", "2"), ("c", "3")):
                source[name].kill()
                target[name].kill()
                alive = "b" if name == "a" else "a"
                for members in (source, target):
                    until(partial(leads_without, members, name), "another one leads")
                write(source[alive], "k", value)
                arrives(target[alive], "k", value)
                for members in (source, target):
                    members[name].start_again()
