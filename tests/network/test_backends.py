"""The backends that flannel defined: their options, in one place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from netstore.network.backends import BUILT_IN, FOREIGN, schema_of
from netstore.network.plugins import Plugin, expanded, section_problem


def test_no_type_is_both_ours_and_foreign() -> None:
    assert not FOREIGN & BUILT_IN.keys()
    assert all(name == name.lower() for name in (*BUILT_IN, *FOREIGN))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_option_has_a_default_and_a_schema(name: str) -> None:
    options = BUILT_IN[name]
    options()
    schema = schema_of(options)
    names = {each.encode_name for each in msgspec.structs.fields(options)}
    assert set(schema["properties"]) == names
    assert expanded(schema)["type"] == "object"


@pytest.mark.parametrize(
    ("name", "section", "field"),
    [
        ("vxlan", {"VNI": 7, "Port": 4789, "GBP": True, "MTU": 1450, "DirectRouting": True}, None),
        ("vxlan", {"VNI": 1 << 24}, "VNI"),
        ("vxlan", {"Port": "8472"}, "Port"),
        ("wireguard", {"Mode": "ipv4", "PersistentKeepaliveInterval": 25}, None),
        ("wireguard", {"Mode": "both"}, "Mode"),
        ("extension", {"SubnetAddCommand": ["ip"]}, "SubnetAddCommand"),
    ],
)
def test_struct_and_schema_judge_alike(name: str, section: dict[str, Any], field: str | None) -> None:
    options = BUILT_IN[name]
    if field is None:
        msgspec.convert(section, options)
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(section, options)
    problem = section_problem(Plugin(name, schema=schema_of(options)), section)
    assert (problem and problem[0]) == field
