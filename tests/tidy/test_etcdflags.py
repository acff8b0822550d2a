"""The manual page tells what netstored does with each flag of etcd."""

from __future__ import annotations

import re

import pytest

from contrib.etcdflags import PAGE, answer, filled
from netstore.ops.etcd_flags import FLAGS


def test_the_page_tells_what_the_code_does() -> None:
    page = PAGE.read_text()
    assert page == filled(page), "run `python -m contrib.etcdflags` and commit what it wrote"
    assert re.findall(r"^\.It Li --(\S+) Pq", page, re.MULTILINE) == list(FLAGS)


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("listen-metrics-urls", "served"),
        ("log-output", "served, as --log-outputs"),
        ("enable-v2", "served; the default is true"),
        ("max-wals", "accepted, without effect: netstored paces"),
        ("feature-gates", "accepted in part, without effect: known gates are"),
        ("proxy", "refused (off and an empty value accepted): there is no proxy mode"),
    ],
)
def test_answers(flag: str, text: str) -> None:
    assert answer(flag).startswith(text)
