"""What netstore-agent accepts: flannel's words, and nothing absurd."""

from __future__ import annotations

from pathlib import Path

import pytest

from netstore.ops.agent import AGENT, AgentConfig
from tests.support.settings import refusal


def agent(*argv: str, **environ: str) -> AgentConfig:
    return AGENT.load(argv, environ).config


class TestAgent:
    def test_lists_that_are_joined(self) -> None:
        argv = "--iface=a --iface=b,a --iface-regex=c,d --iface-regex=e --etcd-endpoints=http://x:1"
        config = AGENT.load([*argv.split(), "--endpoints=http://y:1"], {}).config
        assert (config.iface, config.iface_regex) == (("a", "b"), ("c,d", "e"))
        assert list(map(str, config.endpoints)) == ["http://y:1"]

    def test_a_unit_file_of_flannel_is_understood(self) -> None:
        config = agent(
            "-etcd-endpoints=http://10.0.0.1:2379,http://10.0.0.2:2379",
            "-etcd-prefix=/kube-centos/network",
            "-iface=eth1",
            "-iface=eth0",
            "-iface-regex=^10\\.(1|2),?",
            "-subnet-lease-renew-margin=1439",
            "-public-ip=10.0.0.9",
            "-v=4",
            FLANNELD_SUBNET_FILE="/run/x.env",
            FLANNELD_ETCD_USERNAME="root",
            FLANNELD_ETCD_PASSWORD="p w",  # noqa: S106 - made up
        )
        assert [str(url) for url in config.endpoints] == ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]
        assert config.prefix == "/kube-centos/network"
        assert config.iface == ("eth1", "eth0")
        assert config.iface_regex == ("^10\\.(1|2),?",)
        assert config.renew_margin_seconds == 1439 * 60
        assert (config.username, config.password, config.subnet_file) == ("root", "p w", Path("/run/x.env"))

    def test_the_netfilter_flags_are_flannels(self) -> None:
        config = agent()
        assert (config.ip_masq, config.iptables_forward_rules, config.iptables_resync) == (False, True, 5)
        config = agent("-ip-masq", "--iptables-forward-rules=false", "-iptables-resync", "30")
        assert (config.ip_masq, config.iptables_forward_rules, config.iptables_resync) == (True, False, 30)
        config = agent(FLANNELD_IP_MASQ="true", FLANNELD_IP_MASQ_FULLY_RANDOM_DISABLE="1")
        assert config.ip_masq
        assert config.ip_masq_fully_random_disable

    @pytest.mark.parametrize(("ttl", "margin"), [(86_400, 3600), (7200, 3600), (7199, 3599.5), (10, 5)])
    def test_short_leases_are_renewed_at_half_their_life(self, ttl: int, margin: float) -> None:
        assert AgentConfig(lease_ttl=ttl).renew_margin_seconds == margin

    @pytest.mark.parametrize(
        ("argv", "text"),
        [
            ("--subnet-lease-renew-margin=0", "out of range"),
            (
                "--subnet-lease-renew-margin=1440",
                "out of range; give a whole number of minutes from 1 to 1439",
            ),
            ("--subnet-lease-renew-margin=2 --lease-ttl=120", "give at most 1, or a longer lease_ttl"),
            ("--lease-ttl=1", "out of range"),
            ("--etcd-prefix=network", "is not usable"),
            ("--etcd-prefix=/a/", "is not usable"),
            ("--etcd-prefix=/a/../b", "is not usable"),
            ("--etcd-prefix=/", "is not usable"),
            ("--public-ip=10.0.0.256", "give an IPv4 address"),
            ("--public-ip=10.0.0.1.", "give an IPv4 address"),
            ("--public-ip=010.0.0.1", "give an IPv4 address"),
            ("--public-ip=::1", "give an IPv4 address"),
            ("--iface-can-reach=x", "give an IPv4 or IPv6 address"),
            ("--iface-regex=(", "is no regular expression at character 1; give"),
            ("--iface-regex=a[", "is no regular expression at character 2; give"),
            ("--iface-regex=a{99999999999999999999}", "is no regular expression"),
            ("--iface=a/b", "is no interface name"),
            ("--healthz-port=65536", "out of range"),
            ("--etcd-certfile=/c", "cert_file (flag --etcd-certfile): is of no use without key_file"),
            ("--etcd-keyfile=/c", "is of no use without cert_file"),
            ("--etcd-password=x", "is of no use without username"),
            ("--kube-subnet-mgr", "not supported by netstore-agent"),
            ("--iptables-resync=0", "out of range; give a whole number of seconds from 1"),
            ("--ip-masq=maybe", "is not true or false"),
        ],
    )
    def test_refusals(self, argv: str, text: str) -> None:
        assert text in refusal(AGENT, *argv.split())

    def test_password_is_never_printed(self) -> None:
        loaded = AGENT.load(["--etcd-username=u", "--etcd-password=s3cret"], {})
        assert "s3cret" not in AGENT.report(loaded)
        assert "s3cret" not in repr(loaded.config)
        assert "s3cret" not in refusal(AGENT, "--etcd-username=u", "--etcd-password=s3cret\n")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--healthz-ip=127.0.0.2", "healthz_ip (flag --healthz-ip) has no effect without healthz_port"),
        ("--plugins-keys=/k", "without plugins_install"),
        ("--ip-masq-fully-random-disable", "without ip_masq"),
        ("--ca-file=/c", "ca_file: no effect, since no URL of endpoints is https"),
    ],
)
def test_what_has_no_effect_with_the_rest_is_told(words: str, told: str) -> None:
    (notice,) = AGENT.load(words.split(), {}).notices
    assert told in notice
    more = "--healthz-port=1 --plugins-install --ip-masq --endpoints=https://127.0.0.1:1"
    assert AGENT.load([*words.split(), *more.split()], {}).notices == ()
