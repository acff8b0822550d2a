"""The manual page tells what the agent does with each flag of flanneld."""

from __future__ import annotations

import re

import pytest

from contrib.flannelflags import PAGE, answer, filled
from netstore.ops.flannel_flags import FLAGS


def test_the_page_tells_what_the_code_does() -> None:
    page = PAGE.read_text()
    assert page == filled(page), "run `python -m contrib.flannelflags` and commit what it wrote"
    assert re.findall(r"^\.It Li --(\S+) Pq", page, re.MULTILINE) == list(FLAGS)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("ip-masq", "served"),
        ("etcd-prefix", "served, as --prefix"),
        ("healthz-ip", "served; flannel's default is 0.0.0.0"),
        ("vmodule", "accepted, without effect: logs go to stderr"),
        ("kube-subnet-mgr", "refused (false accepted): the agent keeps"),
        ("remote", "refused (an empty value accepted): the agent talks to the store itself"),
    ],
)
def test_answers(flag: str, text: str) -> None:
    assert answer(flag).startswith(text)


def test_a_page_without_the_comments_is_refused() -> None:
    with pytest.raises(ValueError, match="two comments"):
        filled(".Dd today\n")
