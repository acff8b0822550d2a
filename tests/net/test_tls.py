"""Contexts that follow their files, and tunnels between two ends in memory."""

from __future__ import annotations

import os
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from netstore.errors import NetstoreError, NoRestart
from netstore.net.tls import Credentials, TlsFailed, Tunnel
from netstore.net.tlspolicy import SUITES, TlsPolicy
from tests.support.log import KeptLog

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HOST: Final = "store.example"


class Files:
    """A certificate, its key and an authority in files."""

    def __init__(self, folder: Path, host: str = HOST) -> None:
        folder.mkdir(exist_ok=True)
        self.ca = trustme.CA()
        self.log = KeptLog()
        self.certificate, self.key, self.trusted = (folder / name for name in ("c.pem", "k.pem", "ca.pem"))
        self.ca.cert_pem.write_to_path(self.trusted)
        self.issue(host)

    def issue(self, host: str = HOST, ca: trustme.CA | None = None) -> None:
        made = (ca or self.ca).issue_cert(host)
        self.key.touch(mode=0o600)
        made.private_key_pem.write_to_path(self.key)
        self.certificate.write_bytes(b"".join(each.bytes() for each in made.cert_chain_pems))

    def credentials(self, **more: Any) -> Credentials:
        settings: dict[str, Any] = {"client_auth": True, **more}
        return Credentials(self.certificate, self.key, self.trusted, log=self.log, **settings)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "tls")


def shake(caller: Tunnel, called: Tunnel) -> None:
    """Carry bytes between two ends until both are open; raises what one of them finds."""
    out = caller.begin()
    called.begin()
    for _ in range(10):
        if caller.open and called.open and not out:
            return
        called.take(out)
        caller.take(called.outbound())
        out = caller.outbound()
    raise AssertionError("no end of the handshake")


def pair(calling: Credentials, called: Credentials, host: str = HOST) -> tuple[Tunnel, Tunnel]:
    ends = Tunnel(calling.client(), host), Tunnel(called.server(), None)
    shake(*ends)
    return ends


def test_bytes_go_both_ways_and_never_in_the_clear(files: Files) -> None:
    caller, called = pair(files.credentials(), files.credentials())
    large = os.urandom(1 << 20)
    for sender, receiver in ((caller, called), (called, caller)):
        wire = sender.send(large)
        assert large[:100] not in wire
        assert receiver.take(wire) == large
    wire = caller.send(b"in pieces")
    assert b"".join(called.take(wire[at : at + 1]) for at in range(len(wire))) == b"in pieces"


def test_an_end_says_so(files: Files) -> None:
    caller, called = pair(files.credentials(), files.credentials())
    assert called.take(caller.send(b"last") + caller.close()) == b"last"
    assert called.ended
    assert not caller.ended


def test_a_protocol_is_agreed_on_or_not(files: Files) -> None:
    named = files.credentials(alpn=("h2", "http/1.1"))
    context = files.credentials().client()
    context.set_alpn_protocols(["http/1.1"])
    ends = Tunnel(context, HOST), Tunnel(named.server(), None)
    shake(*ends)
    assert ends[0].protocol == ends[1].protocol == "http/1.1"
    assert pair(files.credentials(), files.credentials())[1].protocol is None


def test_old_versions_are_not_spoken(files: Files) -> None:
    credentials = files.credentials()
    for context in (credentials.client(), credentials.server()):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_server_with_another_name_is_refused_by_name(files: Files) -> None:
    with pytest.raises(TlsFailed, match=r"certificate refused: .*ostname mismatch"):
        pair(files.credentials(), files.credentials(), "other.example")


def test_an_address_is_a_name_too(tmp_path: Path) -> None:
    files = Files(tmp_path / "tls", "127.0.0.1")
    pair(files.credentials(), files.credentials(), "127.0.0.1")


def test_a_caller_of_another_authority_is_refused_and_told(files: Files, tmp_path: Path) -> None:
    foreign = Files(tmp_path / "foreign")
    foreign.ca.cert_pem.write_to_path(foreign.trusted)
    files.ca.cert_pem.write_to_path(foreign.trusted)
    caller, called = Tunnel(foreign.credentials().client(), HOST), Tunnel(files.credentials().server(), None)
    with pytest.raises(TlsFailed, match="certificate refused"):
        shake(caller, called)
    with pytest.raises(TlsFailed, match="unknown ca"):
        caller.take(called.outbound())


def test_a_caller_without_a_certificate_is_let_in_only_where_none_is_asked(files: Files) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(files.trusted)
    shake(Tunnel(bare, HOST), Tunnel(files.credentials(client_auth=False).server(), None))
    caller, called = Tunnel(bare, HOST), Tunnel(files.credentials().server(), None)
    with pytest.raises(TlsFailed, match="peer did not return a certificate"):
        shake(caller, called)


def test_what_is_not_tls_ends_the_stream(files: Files) -> None:
    called = Tunnel(files.credentials().server(), None)
    with pytest.raises(TlsFailed):
        called.take(b"GET / HTTP/1.1\r\n\r\n")


def test_a_new_certificate_is_used_for_the_next_stream(files: Files) -> None:
    server, client = files.credentials(), files.credentials()
    pair(client, server)
    files.issue("renamed.example")
    pair(client, server, "renamed.example")
    assert files.log.events == ["certificates_read"] * 2


def test_a_change_that_cannot_be_used_is_told_once_and_changes_nothing(files: Files) -> None:
    server = files.credentials()
    files.certificate.write_text("nonsense")
    for _ in range(3):
        pair_with_old = server.server()
        assert pair_with_old is server.server()
    [(event, fields)] = files.log.lines
    assert event == "certificates_not_read"
    assert str(files.certificate) in fields["error"]
    files.certificate.unlink()
    server.server()
    assert len(files.log.events) == 2, "another reason is told too"
    files.issue()
    server.server()
    assert files.log.events[-1] == "certificates_read"


def test_a_key_of_another_certificate_is_refused(files: Files, tmp_path: Path) -> None:
    other = Files(tmp_path / "other")
    files.key.write_bytes(other.key.read_bytes())
    with pytest.raises(NetstoreError, match=r"key_file: .*k\.pem: is not the key of .*; give the key that"):
        files.credentials()


def test_a_key_that_others_can_read_is_refused(files: Files) -> None:
    files.key.chmod(0o644)
    if os.geteuid() == 0:
        os.chown(files.key, 65534, -1)
    with pytest.raises(NoRestart, match="mode 0644 lets other users read it; run chmod 600"):
        files.credentials()
    assert not files.log.events
    files.credentials(open_keys=True)
    assert files.log.events == ["others_can_read_key"]


@pytest.mark.root
def test_roots_own_key_that_others_can_read_is_warned_of(files: Files) -> None:
    """As in a Secret that Kubernetes mounts."""
    files.key.chmod(0o644)
    files.credentials()
    assert files.log.events == ["others_can_read_key"]


def crl_of(files: Files, serials: Sequence[int]) -> Path:
    """A revocation list, by an authority of its own: only the numbers count."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    made = x509.CertificateRevocationListBuilder(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "list")]), now, now + timedelta(days=1)
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder(serial, now)
        made = made.add_revoked_certificate(revoked.build())
    path = files.key.with_name("list.der")
    path.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER))
    return path


def asked(files: Files, **policy: Any) -> None:
    """Shake hands with a called side that asks for this."""
    calling = files.credentials()
    called = files.credentials(policy=TlsPolicy(**policy))
    shake(Tunnel(calling.client(), HOST), Tunnel(called.server(), None))


def test_a_revoked_certificate_is_refused(files: Files) -> None:
    serial = x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number
    asked(files, revoked=crl_of(files, [serial + 1]))
    with pytest.raises(TlsFailed, match="is revoked"):
        asked(files, revoked=crl_of(files, [serial + 1, serial]))


@pytest.mark.parametrize("version", ["TLS1.2", "TLS1.3"])
@pytest.mark.parametrize("is_shown", [True, False])
def test_a_certificate_of_a_revoked_issuer_is_refused(files: Files, version: str, is_shown: bool) -> None:
    """The caller shows the issuer, or the called side has it among its authorities. No session of an
    earlier stream goes around it.
    """
    between = files.ca.create_child_ca()
    files.issue(ca=between)
    own, issuer = x509.load_pem_x509_certificates(files.certificate.read_bytes())[:2]
    root = x509.load_pem_x509_certificate(files.trusted.read_bytes())
    if not is_shown:
        between.cert_pem.write_to_path(files.trusted, append=True)
        files.certificate.write_bytes(own.public_bytes(serialization.Encoding.PEM))
    asked(files, highest=version, revoked=crl_of(files, [issuer.serial_number + 1, root.serial_number]))
    called = files.credentials(
        policy=TlsPolicy(highest=version, revoked=crl_of(files, [issuer.serial_number]))
    )
    context = files.credentials(policy=TlsPolicy(highest=version)).client()
    session = None
    for _ in range(2):
        caller, refusing = Tunnel(context, HOST), Tunnel(called.server(), None)
        if session is not None:
            caller._tls.session = session
        with pytest.raises(TlsFailed, match=rf"{issuer.serial_number:X} is revoked"):
            shake(caller, refusing)
        caller.take(refusing.outbound())
        session = caller._tls.session


def test_a_list_of_revocations_is_read_again_when_it_changes(files: Files) -> None:
    path = crl_of(files, [1])
    serial = x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number
    called = files.credentials(policy=TlsPolicy(revoked=path))
    shake(Tunnel(files.credentials().client(), HOST), Tunnel(called.server(), None))
    crl_of(files, [1, 2, serial])
    with pytest.raises(TlsFailed, match="is revoked"):
        shake(Tunnel(files.credentials().client(), HOST), Tunnel(called.server(), None))


def test_what_is_no_list_of_revocations_is_told(files: Files) -> None:
    for path in (files.certificate, files.key.with_name("nothing")):
        with pytest.raises(NoRestart, match=r"^client_crl_file: "):
            files.credentials(policy=TlsPolicy(revoked=path))


@pytest.mark.parametrize(
    ("policy", "fits"),
    [
        ({"hosts": (HOST,)}, True),
        ({"hosts": ("other.example", HOST)}, True),
        ({"hosts": ("other.example",)}, False),
        ({"hosts": ("127.0.0.1",)}, False),
        ({"names": ("somebody",)}, False),
    ],
)
def test_a_certificate_for_somebody_else_is_refused(files: Files, policy: dict[str, Any], fits: bool) -> None:
    if fits:
        asked(files, **policy)
        return
    with pytest.raises(TlsFailed, match="certificate refused"):
        asked(files, **policy)


def test_versions_and_suites_are_as_asked(files: Files) -> None:
    for policy, expected in (
        ({"highest": "TLS1.2"}, "TLSv1.2"),
        ({"lowest": "TLS1.3"}, "TLSv1.3"),
        ({"suites": ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256")}, "TLSv1.3"),
        ({"suites": ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",), "highest": "TLS1.2"}, "TLSv1.2"),
    ):
        caller = Tunnel(files.credentials().client(), HOST)
        called = Tunnel(files.credentials(policy=TlsPolicy(**policy)).server(), None)
        shake(caller, called)
        tls = caller._tls
        assert tls.version() == expected
        if policy.get("highest") and policy.get("suites"):
            assert (tls.cipher() or ("",))[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"


def test_with_suites_of_one_version_the_other_is_not_spoken(files: Files) -> None:
    suites = ("TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256")
    asked(files, suites=suites)
    old = Tunnel(files.credentials(policy=TlsPolicy(highest="TLS1.2")).client(), HOST)
    called = Tunnel(files.credentials(policy=TlsPolicy(suites=suites)).server(), None)
    with pytest.raises(TlsFailed, match="unsupported protocol"):
        shake(old, called)


def test_every_suite_is_known_to_the_library() -> None:
    for name in filter(SUITES.get, SUITES):
        TlsPolicy(suites=(name,)).apply(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def test_another_certificate_for_calling(files: Files, tmp_path: Path) -> None:
    other = Files(tmp_path / "other")
    other.issue("caller.example", ca=files.ca)
    calling = files.credentials(calling=(other.certificate, other.key))
    called = files.credentials(policy=TlsPolicy(hosts=("caller.example",)))
    shake(Tunnel(calling.client(), HOST), Tunnel(called.server(), None))


def test_a_caller_may_verify_nothing(files: Files, tmp_path: Path) -> None:
    stranger = Files(tmp_path / "stranger", "elsewhere")
    calling = files.credentials(policy=TlsPolicy(verifies=False))
    shake(Tunnel(calling.client(), HOST), Tunnel(stranger.credentials(client_auth=False).server(), None))


def test_nobody_is_told_to_close_a_file_that_is_no_key(files: Files) -> None:
    files.key.write_text("root:x:0:0\n")
    files.key.chmod(0o644)
    with pytest.raises(NoRestart, match=r"key_file: .*: holds no private key in PEM form") as told:
        files.credentials()
    assert "chmod" not in str(told.value)


SETTINGS = {"certificate": "peer_cert_file", "key": "peer_key_file", "trusted": "peer_trusted_ca_file"}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_missing_file_is_named_with_its_setting(files: Files, name: str) -> None:
    path: Path = getattr(files, name)
    path.unlink()
    with pytest.raises(NoRestart, match=f"^{SETTINGS[name]}: {path}: No such file"):
        files.credentials(prefix="peer_")


@pytest.mark.parametrize("content", [b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_file_of_something_else_is_named_in_words(files: Files, name: str, content: bytes) -> None:
    path: Path = getattr(files, name)
    path.write_bytes(content)
    held = "private key" if name == "key" else "certificate"
    with pytest.raises(NoRestart, match=f"^{SETTINGS[name]}: {path}: holds no {held} in PEM form"):
        files.credentials(prefix="peer_")


def test_authorities_that_are_none_are_refused(files: Files) -> None:
    files.trusted.write_text("nonsense")
    with pytest.raises(NetstoreError, match=r"ca\.pem: .*authorities' certificates"):
        files.credentials()


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7, 1000])
def test_a_record_is_partial_until_its_last_byte(files: Files, step: int) -> None:
    caller, called = pair(files.credentials(), files.credentials())
    before = called.records
    sealed = [caller.send(bytes(size)) for size in (1, 0, 700, 20)]
    ends = [0]
    for each in sealed:
        ends.append(ends[-1] + len(each))
    stream = b"".join(sealed)
    for at in range(0, len(stream), step):
        called.take(stream[at : at + step])
        come = min(at + step, len(stream))
        assert called.partial == come - max(end for end in ends if end <= come)
    assert called.records - before == 3, "nothing makes no record"
