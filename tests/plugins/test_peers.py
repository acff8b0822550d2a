"""Which leases are a backend's, and what other nodes published."""

from __future__ import annotations

import msgspec
import pytest
from netstore_plugins.peers import other_type, published

from tests.plugins.hosts import lease


class Data(msgspec.Struct, frozen=True):
    vni: int | None = msgspec.field(default=None, name="VNI")
    mac: str = msgspec.field(default="", name="VtepMAC")


def test_leases_of_other_types_are_refused_with_the_type() -> None:
    assert other_type(lease(2, "vxlan"), "vxlan") is None
    assert other_type(lease(3, "VXLAN"), "vxlan") == "its backend is VXLAN, not vxlan"
    assert other_type(lease(4, ""), "vxlan") == "its backend is not named, not vxlan"


def test_names_match_in_any_case_and_null_and_unknown_fields_do_not_matter() -> None:
    assert published(b'{"vtepmac":"a","VNI":null,"Other":[1]}', Data) == Data(None, "a")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "has none"),
        (b"[1]", "Expected `object`"),
        (b'{"VNI":"1"}', r"Expected `int \| null`, got `str`"),
        (b'{"VNI"', "truncated"),
        (b'{"VNI":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nest|recursion"),
        (b'"\xff"', "utf-8|object"),
    ],
)
def test_what_cannot_be_used_is_a_value_error_in_words(data: bytes | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        published(data, Data)
