"""The backends of the project: each has an entry point, a manifest, and a section in netstore-backends(7)."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_type_hints

import msgspec
import pytest
import tomli

from netstore.agent.backend import API_VERSION, GROUP, Manifest
from netstore.network.backends import BUILT_IN, FOREIGN
from tests.support.daemon import ROOT

if TYPE_CHECKING:
    from types import ModuleType

POINTS: Final[dict[str, str]] = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
    GROUP
]
PAGE: Final = (ROOT / "man" / "netstore-backends.7").read_text()


def plugin(name: str) -> tuple[ModuleType, Any]:
    module, _, attribute = POINTS[name].partition(":")
    loaded = importlib.import_module(module)
    return loaded, getattr(loaded, attribute)


def section(name: str) -> str:
    found = re.search(rf"^\.Ss {name}\n(.*?)(?=^\.S[sh] )", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"netstore-backends(7) has no section {name}"
    return found[1]


def test_these_are_the_backends() -> None:
    assert sorted(POINTS) == ["alloc", "extension", "host-gw", "ipip", "udp", "vxlan", "wireguard"]
    assert re.findall(r"^\.Ss (\S+)", PAGE, re.MULTILINE) == [
        "host-gw", "vxlan", "ipip", "wireguard", "alloc", "extension", "udp",
    ]  # fmt: skip


@pytest.mark.parametrize("name", POINTS)
def test_the_manifest_has_the_name_of_the_entry_point(name: str) -> None:
    _, backend = plugin(name)
    manifest: Manifest = backend.manifest
    assert (manifest.name, manifest.api) == (name, API_VERSION)


@pytest.mark.parametrize("name", POINTS)
def test_every_option_has_a_description_a_default_and_an_entry_in_the_page(name: str) -> None:
    _, backend = plugin(name)
    options: type[msgspec.Struct] = backend.manifest.options
    described = get_type_hints(options, include_extras=True)
    entries = re.findall(r"^\.It Sy (\S+)\n(.*?)(?=^\.It |^\.El)", section(name), re.MULTILINE | re.DOTALL)
    fields = msgspec.structs.fields(options)
    assert sorted(field.encode_name for field in fields) == sorted(named for named, _ in entries)
    texts = dict(entries)
    for field in fields:
        notes = [each.description for each in described[field.name].__metadata__ if each.description]
        assert len(notes) == 1
        default = field.default if field.default != "" else "empty"
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        assert re.search(rf"^Default: {re.escape(shown)}[.,]", texts[field.encode_name], re.MULTILINE)


@pytest.mark.parametrize("name", POINTS)
def test_it_uses_the_public_protocol_its_options_and_the_other_plugins_only(name: str) -> None:
    module, _ = plugin(name)
    tree = ast.parse(Path(str(module.__file__)).read_text())
    used = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {each for each in used if each.split(".")[0] == "netstore"} <= {
        "netstore",
        "netstore.agent.backend",
        "netstore.network.backends",
    }


def test_what_is_built_in_has_the_options_that_the_store_checks() -> None:
    found = {name: backend.manifest.options for name in POINTS for _, backend in [plugin(name)]}
    assert {name: found[name] for name in BUILT_IN} == BUILT_IN
    assert not found.keys() - BUILT_IN.keys() - FOREIGN


@pytest.mark.parametrize("name", POINTS)
def test_its_options_are_a_json_schema(name: str) -> None:
    _, backend = plugin(name)
    schema = msgspec.json.schema(backend.manifest.options)
    [described] = schema["$defs"].values()
    assert described["type"] == "object"
    assert not described.get("required")
