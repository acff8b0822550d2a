"""The documents of admitted plugins: what is refused, version ranges, and which schemas may be used."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netstore.network.config import parse_network
from netstore.network.plugins import (
    MAX_SCHEMA_NODES,
    MAX_WHEEL_BYTES,
    Plugin,
    PluginError,
    Wheel,
    check_plugin,
    check_schema,
    encode_plugin,
    expanded,
    is_in_range,
    known_fields,
    names_of,
    parse_plugin,
    section_problem,
    with_settings,
)

DIGEST = "0f" * 32
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "Port": {"type": "integer", "minimum": 1, "maximum": 65535},
        "Paths": {"type": "array", "items": {"$ref": "#/$defs/Path"}, "maxItems": 4},
    },
    "required": ["Port"],
    "$defs": {"Path": {"type": "object", "properties": {"Via": {"type": "string"}}}},
}


class Inner(msgspec.Struct):
    via: str = ""


class Options(msgspec.Struct):
    port: int
    inner: Inner | None = None


def refusal(plugin: Plugin) -> str:
    with pytest.raises(PluginError) as caught:
        check_plugin(plugin)
    return str(caught.value)


def test_a_document_is_read_as_it_was_written() -> None:
    wheel = Wheel("my_net-1.0-py3-none-any.whl", DIGEST, 1000)
    plugin = Plugin("my-net", ">=1,<2", SCHEMA, wheel, {"port": 7}, 1_795_000_000)
    assert parse_plugin(encode_plugin(plugin)) == plugin
    assert parse_plugin(b'{"name":"my-net"}') == Plugin("my-net")


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(text: bytes) -> None:
    try:
        parse_plugin(text)
    except PluginError as error:
        assert str(error).startswith(error.field)  # noqa: PT017 - most examples raise


@pytest.mark.parametrize(
    ("plugin", "field"),
    [
        (Plugin(""), "name"),
        (Plugin("My-Net"), "name"),
        (Plugin("../up"), "name"),
        (Plugin("x" * 64), "name"),
        (Plugin("x", "1"), "versions"),
        (Plugin("x", ">=1,,<2"), "versions"),
        (Plugin("x", ">=a"), "versions"),
        (Plugin("x", since=-1), "since"),
        (Plugin("x", wheel=Wheel("x.whl", DIGEST, 1)), "wheel.file"),
        (Plugin("x", wheel=Wheel("../x-1-py3-none-any.whl", DIGEST, 1)), "wheel.file"),
        (Plugin("x", wheel=Wheel("x-1-cp311-cp311-linux_x86_64.whl", DIGEST, 1)), "wheel.file"),
        (Plugin("x", wheel=Wheel("x-1-py3-none-any.whl", "0f", 1)), "wheel.sha256"),
        (Plugin("x", wheel=Wheel("x-1-py3-none-any.whl", DIGEST, 0)), "wheel.size"),
        (Plugin("x", wheel=Wheel("x-1-py3-none-any.whl", DIGEST, MAX_WHEEL_BYTES + 1)), "wheel.size"),
        (Plugin("x", wheel=Wheel("x-1-py3-none-any.whl", DIGEST, 1, "abc")), "wheel.signature"),
    ],
)
def test_a_bad_field_is_named(plugin: Plugin, field: str) -> None:
    assert refusal(plugin).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("schema", "field"),
    [
        ({"type": "string"}, "schema.type"),
        ({"properties": {"a": {"pattern": "(a+)+$"}}}, "schema.properties.a.pattern"),
        ({"properties": {"a": {"$ref": "http://else.where/"}}}, "schema.properties.a.$ref"),
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "schema.properties.a.$ref"),
        ({"properties": []}, "schema.properties"),
        ({"properties": {"a": 1}}, "schema.properties.a"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "schema.$defs.a.anyOf"),
        ({"$defs": 1}, "schema.$defs"),
        ({"uniqueItems": True}, "schema.uniqueItems"),
    ],
)
def test_a_schema_that_is_not_supported_is_refused(schema: dict[str, Any], field: str) -> None:
    assert refusal(Plugin("x", schema=schema)).startswith(field)


def test_references_cannot_multiply_a_schema() -> None:
    definitions: dict[str, Any] = {"d0": {"type": "string"}}
    for number in range(1, 13):
        inner = {"$ref": f"#/$defs/d{number - 1}"}
        definitions[f"d{number}"] = {"anyOf": [inner, inner]}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d12"}}, "$defs": definitions}
    assert f"more than {MAX_SCHEMA_NODES} parts" in refusal(Plugin("x", schema=schema))


def deep(levels: int, inner: object, keyword: str = "items") -> Any:
    """A schema, or a list, that is so deep."""
    for _ in range(levels):
        inner = {keyword: inner} if keyword else [inner]
    return inner


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"a": {"enum": list(range(MAX_SCHEMA_NODES))}}}, "has more than"),
        ({"properties": {"a": {"enum": [[[0] * MAX_SCHEMA_NODES]]}}}, "has more than"),
        (
            {"properties": {"a": {"const": {str(each): 0 for each in range(MAX_SCHEMA_NODES)}}}},
            "has more than",
        ),
        ({"required": ["a"] * MAX_SCHEMA_NODES}, "has more than"),
        ({"type": ["object"] * MAX_SCHEMA_NODES}, "has more than"),
        ({"required": [1]}, "schema.required: is not a list of names"),
        ({"properties": {"a": deep(900, True)}}, "more than 32 schemas deep"),
        ({"properties": {"a": {"enum": [deep(900, 1, "")]}}}, "schema.properties.a.enum: is more than 32"),
        (
            {"$defs": {f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(900)}, "$ref": "#/$defs/d0"},
            "more than 32 schemas deep",
        ),
    ],
)
def test_what_makes_a_check_long_is_counted(schema: dict[str, Any], words: str) -> None:
    assert words in refusal(Plugin("x", schema=schema))


def test_the_work_of_a_check_is_bounded_and_the_field_named() -> None:
    branches = [{"type": "string", "maxLength": each} for each in range(98)]
    plugin = Plugin("x", schema={"properties": {"A": {"items": {"anyOf": branches}}, "B": {}}})
    check_plugin(plugin)
    problem = section_problem(plugin, {"a": ["text"] * 1000, "b": 1})
    assert problem is not None
    assert problem[0] == "A"
    assert "1001 values; of a schema with 102 parts a section has 196 at most" in problem[1]
    assert section_problem(plugin, {"a": ["text"] * 100, "b": 1}) is None
    assert section_problem(plugin, {"b": deep(900, 1, "")}) == ("B", "is more than 32 values deep")


def test_what_msgspec_makes_of_options_is_a_schema_that_can_be_used() -> None:
    plugin = Plugin("x", schema=msgspec.json.schema(Options))
    check_plugin(plugin)
    check_schema(plugin)
    assert set(expanded(plugin.schema)["properties"]) == {"port", "inner"}
    assert section_problem(plugin, {"port": 1, "inner": {"via": 2}}) is not None
    assert section_problem(plugin, {"port": 1, "inner": {"via": "a"}}) is None


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a": {"type": "text"}}}, "schema.properties.a.type"),
        ({"properties": {"a": {"minimum": "1"}}}, "schema.properties.a.minimum"),
        ({"required": "a"}, "schema.required"),
    ],
)
def test_a_schema_that_is_none_is_refused(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(PluginError, match=rf"^{path}: "):
        check_schema(Plugin("x", schema=schema))


def test_a_setting_must_match_the_schema() -> None:
    check_schema(Plugin("x", schema=SCHEMA, settings={"PORT": 1}))
    check_schema(Plugin("x", schema=SCHEMA))  # though Port is required: a config has to give it
    with pytest.raises(PluginError, match=r"^settings.Port: 'one' is not of type 'integer'"):
        check_schema(Plugin("x", schema=SCHEMA, settings={"port": "one"}))


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ({"port": 1}, None),
        ({"PORT": 1, "unknown": 3}, None),
        ({"Port": "1", "pORT": 1}, None),  # the last one counts
        ({"Port": "1"}, "Port"),
        ({"Port": None}, "section"),
        ({}, "section"),
        ({"Port": 1, "paths": [{"Via": "a"}, {"Via": 1}]}, "Paths.1.Via"),
    ],
)
def test_names_match_in_any_case_and_unknown_ones_do_not_count(
    section: dict[str, Any], field: str | None
) -> None:
    problem = section_problem(Plugin("x", schema=SCHEMA), section)
    assert (problem and problem[0]) == field


def test_settings_stand_in_for_what_a_config_does_not_give() -> None:
    plugin = Plugin("x", schema=SCHEMA, settings={"port": 7})
    assert section_problem(plugin, {}) is None
    assert section_problem(plugin, {"PORT": "8"}) is not None
    assert known_fields(plugin, {"pORT": 1, "else": 2}) == {"Port": 1}
    referring = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": SCHEMA | {"$defs": {}}}}
    assert names_of(Plugin("x", schema=referring)) == {"port": "Port", "paths": "Paths"}
    assert names_of(Plugin("x")) == {}


@pytest.mark.parametrize(
    ("version", "versions", "fits"),
    [
        ("1.2.3", "", True),
        ("not one", "", True),
        ("not one", ">=1", False),
        ("1.2.3", ">=1.2,<2", True),
        ("2.0", ">=1.2,<2", False),
        ("2.0rc1", ">=1.2,<2", False),
        ("2.0rc1", ">=2", False),
        ("2.0.post1", ">=2,<2.1", True),
        ("1.10", ">1.9", True),
        ("1.0.0", "==1", True),
        ("1.0", "!=1.0.0", False),
        ("1.2", "<=1.2", True),
        ("v1.2", "<=1.1", False),
    ],
)
def test_versions_and_ranges(version: str, versions: str, fits: bool) -> None:
    assert is_in_range(version, versions) is fits


def test_a_network_gets_the_settings_that_it_does_not_give() -> None:
    text = b'{"Network":"10.1.0.0/16","Backend":{"Type":"x","port":1,"Mode":null}}'
    network = with_settings(parse_network(text), Plugin("x", settings={"Port": 2, "mode": "a", "Mtu": 3}))
    assert msgspec.json.decode(network.backend) == {
        "Type": "x",
        "port": 1,
        "Mode": None,
        "mode": "a",
        "Mtu": 3,
    }
    assert with_settings(network, None) is network
