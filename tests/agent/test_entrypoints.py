"""The entry points of what is installed."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from netstore.agent.entrypoints import EntryPoint, entry_points

GROUP = "netstore.backends"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two folders that are all of `sys.path`, with a file and an absent folder."""
    found = [tmp_path / "one", tmp_path / "two"]
    for each in found:
        each.mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "path", [*map(str, found), str(tmp_path / "file"), str(tmp_path / "absent")])
    return found


def distribution(place: Path, name: str, entries: str, described: str = "Name: x\nVersion: 1.2\n\n") -> None:
    folder = place / name
    folder.mkdir()
    (folder / "entry_points.txt").write_text(entries)
    (folder / ("PKG-INFO" if name.endswith(".egg-info") else "METADATA")).write_text(described)


def test_what_python_itself_finds() -> None:
    for group in (GROUP, "console_scripts", "pytest11"):
        expected = {
            (each.name, each.value.partition(" [")[0], each.dist.version if each.dist else "")
            for each in importlib.metadata.entry_points(group=group)
        }
        assert expected
        assert {(each.name, each.value, each.version) for each in entry_points(group)} == expected


def test_one_group_in_all_its_forms(places: list[Path]) -> None:
    text = (
        "[other]\na = no.module:A\n"
        f"[{GROUP}]\n# b = no.module:B\n\nmy-net=net.plugin:Outer.Inner\nMy Net = net : A [extra]\n"
        "whole = net\nnothing\n[more]\nc = no.module:C\n"
    )
    distribution(places[0], "My.Net-1.2.dist-info", text)
    distribution(places[1], "old.egg-info", f"[{GROUP}]\nold = old:Old\n", "Name: old\n\nVersion: 3\n")
    assert entry_points(GROUP) == [
        EntryPoint("my-net", "net.plugin", "Outer.Inner", "1.2"),
        EntryPoint("My Net", "net", "A", "1.2"),
        EntryPoint("whole", "net", "", "1.2"),
        EntryPoint("old", "old", "Old", ""),
    ]


def test_of_two_distributions_with_one_name_the_first_is_used(places: list[Path]) -> None:
    for place, name in zip(places, ("My_Net-2.dist-info", "my.net-1.dist-info"), strict=True):
        distribution(place, name, f"[{GROUP}]\nmy-net = {place.name}:A\n")
    assert [each.value for each in entry_points(GROUP)] == ["one:A"]


def test_of_two_versions_in_one_folder_that_which_was_installed_last_is_used(places: list[Path]) -> None:
    for version in ("1.9", "1.10", "1.1"):
        distribution(places[0], f"my_net-{version}.dist-info", f"[{GROUP}]\nmy-net = v{version[2:]}:A\n")
        os.utime(places[0] / f"my_net-{version}.dist-info", (len(version), len(version)))
    assert [each.value for each in entry_points(GROUP)] == ["v10:A"]


def test_what_cannot_be_read_is_not_installed(places: list[Path]) -> None:
    (places[0] / "a-1.dist-info" / "entry_points.txt").mkdir(parents=True)
    (places[0] / "b-1.dist-info").write_text("")
    distribution(places[1], "c-1.dist-info", "")
    (places[1] / "c-1.dist-info" / "entry_points.txt").write_bytes(f"[{GROUP}]\nc = c:C\n".encode() + b"\xff")
    assert [each.name for each in entry_points(GROUP)] == ["c"]


def test_an_object_or_a_module_is_loaded() -> None:
    assert EntryPoint("a", "pathlib", "Path.home", "").load() == Path.home
    assert EntryPoint("a", "pathlib", "", "").load().Path is Path
    with pytest.raises(AttributeError):
        EntryPoint("a", "pathlib", "Nothing", "").load()
