"""Which API of a store the agent uses, on real stores, with and without TLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from netstore.agent.localnode import read_document
from netstore.agent.problems import ProblemLog
from netstore.agent.storeapi import store_access
from netstore.client.faults import BadAnswer, Unreachable
from netstore.client.grpc import Channel
from netstore.client.transport import Transport
from netstore.client.v2 import V2Client
from netstore.errors import NetstoreError
from netstore.network.config import NetworkConfigError, parse_network
from netstore.ops.agent import AgentConfig
from netstore.proto import rpc_pb2 as pb
from netstore.urls import Url
from tests.support.certificates import Certificates
from tests.support.daemon import free_port, launch, netstored_command, start_netstored
from tests.support.log import KeptLog
from tests.support.patience import seconds
from tests.support.peers import start_etcd
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon

NETWORK = '{"Network":"10.23.0.0/16"}'


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with start_netstored(tmp_path_factory.mktemp("store")) as daemon:
        yield daemon


async def write(daemon: Daemon, api: str, prefix: str) -> None:
    """Write a network config by this API."""
    if api == "v3":
        other = V3Client(daemon.url)
        other.kv.Put(pb.PutRequest(key=f"{prefix}/config".encode(), value=NETWORK.encode()))
        other.close()
    else:
        async with V2Client(Transport(daemon.url)) as client:
            await client.set(f"{prefix}/config", NETWORK)


def parsed(url: str) -> Url:
    """An endpoint as the agent has it."""
    scheme, _, address = url.partition("://")
    host, _, port = address.partition(":")
    return Url(scheme, host, int(port))


async def chosen(url: str, prefix: str, api: str = "auto", **more: Any) -> str:
    """The API that is chosen there, whose network config was read."""
    config = AgentConfig(endpoints=(parsed(url),), prefix=prefix, store_api=api, **more)
    async with store_access(config, ProblemLog(KeptLog())) as access:
        try:
            found, store = await access.choose()
            network = parse_network((await read_document(store)).encode())
        except NetstoreError as error:
            fault = error  # raised within, it would come out of a nursery in a group
        else:
            assert (await access.choose())[1] is store, "a client is made once"
            assert str(network.network) == "10.23.0.0/16"
            return found
    raise fault


@pytest.mark.parametrize(
    ("there", "asked", "used"),
    [
        ("v2", "auto", "v2"),
        ("v3", "auto", "v3"),
        ("v2 v3", "auto", "v2"),
        ("v2 v3", "v3", "v3"),
        ("v2 v3", "v2", "v2"),
    ],
)
async def test_the_api_that_has_the_network_is_used(
    daemon: Daemon, there: str, asked: str, used: str
) -> None:
    prefix = f"/{there.replace(' ', '-')}"
    for api in there.split():
        await write(daemon, api, prefix)
    assert await chosen(daemon.url, prefix, asked) == used


async def test_without_a_network_in_either_the_agent_has_to_wait(daemon: Daemon) -> None:
    v2, v3 = (f"`netstorectl --store-api {api} network set`" for api in ("v2", "v3"))
    for api, ways in (("auto", (v2, v3)), ("v2", (v2,)), ("v3", (v3,))):
        with pytest.raises(NetworkConfigError, match="there is no network config") as caught:
            await chosen(daemon.url, "/nothing", api)
        assert [way for way in (v2, v3) if way in str(caught.value)] == list(ways)


async def test_two_network_configs_are_told_once(daemon: Daemon) -> None:
    kept = KeptLog()
    log = ProblemLog(kept)
    for api in ("v2", "v3"):
        await write(daemon, api, "/two")
    config = AgentConfig(endpoints=(parsed(daemon.url),), prefix="/two")
    async with store_access(config, log) as access:
        assert (await access.choose())[0] == "v2"
        await access.look_for_another("v3")
        assert kept.lines == [], "nothing was asked that the start does not need"
        await access.look_for_another("v2")
    [(event, fields)] = kept.lines
    assert (event, fields["key"], fields["apis"], fields["used"]) == (
        "two_network_configs",
        "/two/config",
        "v2, v3",
        "v2",
    )
    assert "store_api" in fields["fix"]


@pytest.mark.peer("etcd")
async def test_an_etcd_without_v2(tmp_path: Path) -> None:
    with start_etcd(tmp_path, "--enable-v2=false") as daemon:
        with pytest.raises(
            NetworkConfigError, match=r"v2 is not served there \(http.*answered 404"
        ) as caught:
            await chosen(daemon.url, "/net")
        assert "v3 has no network config" in str(caught.value)
        assert "--store-api v3 network set" in str(caught.value)
        assert "--store-api v2" not in str(caught.value)
        with pytest.raises(BadAnswer, match=r"--enable-v2\)\? or set store_api to v3"):
            await chosen(daemon.url, "/net", "v2")
        await write(daemon, "v3", "/net")
        assert await chosen(daemon.url, "/net") == "v3"


def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a handshake takes longer than clients wait for it."""
    for client in (Transport, Channel):
        defaults = client.__init__.__kwdefaults__
        assert defaults is not None
        monkeypatch.setitem(defaults, "connect_timeout", seconds(10))


@pytest.mark.parametrize("api", ["v2", "v3"])
async def test_tls_with_certificates_of_both_sides(
    tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(monkeypatch)
    files = Certificates(tmp_path / "tls")
    port, tls_port = free_port(), free_port()
    flags = (
        *("--cert-file", str(files.certificate), "--key-file", str(files.key)),
        *("--trusted-ca-file", str(files.ca), "--client-cert-auth"),
    )
    command = netstored_command(tmp_path / "data", *flags, port=port, also=f"https://127.0.0.1:{tls_port}")
    url = f"https://127.0.0.1:{tls_port}"
    with launch(command, f"http://127.0.0.1:{port}", tmp_path / "data", tmp_path / "log") as daemon:
        await write(daemon, api, "/net")
        shown = {"cert_file": files.client_certificate, "key_file": files.client_key}
        assert await chosen(url, "/net", api, ca_file=files.ca, **shown) == api
        with pytest.raises(Unreachable, match=r"certificate refused: .*; ca_file /.* has not signed it"):
            await chosen(url, "/net", api, ca_file=files.stranger_certificate, **shown)
        with pytest.raises(Unreachable, match=r"certificate refused: .*; give its authority as ca_file"):
            await chosen(url, "/net", api, **shown)
        with pytest.raises(Unreachable, match="a certificate of ours that it trusts; give cert_file"):
            await chosen(url, "/net", api, ca_file=files.ca)
        strange = {"cert_file": files.stranger_certificate, "key_file": files.stranger_key}
        with pytest.raises(Unreachable, match=r"of ours that it trusts; cert_file /.* is none"):
            await chosen(url, "/net", api, ca_file=files.ca, **strange)
        with pytest.raises(Unreachable, match="is it http:// there"):
            await chosen(f"https://127.0.0.1:{port}", "/net", api, ca_file=files.ca)
        with pytest.raises((Unreachable, BadAnswer), match=r"HTTPS server|is it https:// there"):
            await chosen(f"http://127.0.0.1:{tls_port}", "/net", api)


@pytest.mark.parametrize("api", ["v2", "v3"])
async def test_a_peer_that_closes_within_the_handshake_may_be_without_tls(
    api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient(monkeypatch)

    async def close(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some(4096)

    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, close, [listener])
        url = f"https://127.0.0.1:{listener.socket.getsockname()[1]}"
        with pytest.raises(Unreachable, match="in the handshake; is it http:// there"):
            await chosen(url, "/net", api)
        nursery.cancel_scope.cancel()
