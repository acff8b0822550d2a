"""`netstorectl subnet map` and `subnet history` on real stores, in both APIs."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import pytest
import trio

from netstore.client import subnets_v2
from netstore.client.subnets_v2 import V2Subnets

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.commands.conftest import Keys, Run

GOOD = '{"Network":"172.30.0.0/24","SubnetLen":28,"Backend":{"Type":"host-gw"}}'


def holder(ip: int) -> str:
    return json.dumps({"PublicIP": f"192.168.77.{ip}", "BackendType": "host-gw"})


def test_a_map_without_a_config(ctl: Run, prefix: str) -> None:
    told = ctl("subnet", "map")
    assert (told.status, told.out) == (3, "")
    assert f"{prefix}/config: no config that daemons can use" in told.err


def test_the_map_in_all_its_forms(ctl: Run, prefix: str, keys: Keys, tmp_path: Path) -> None:
    ctl("network", "set", GOOD)
    keys.put(f"{prefix}/subnets/172.30.0.32-28", holder(1), 1000)
    keys.put(f"{prefix}/subnets/172.30.0.64-28", '{"PublicIP":"192.168.77.2"}')
    keys.put(f"{prefix}/subnets/rubbish", "x")
    told = ctl("subnet", "map")
    assert told.status == 1
    assert told.err.startswith(f"netstorectl: {prefix}/subnets/rubbish: ")
    assert [row[:4] for row in told.rows] == [
        ["172.30.0.16/28", "1", "free", ""],
        ["172.30.0.32/28", "1", "held", "192.168.77.1"],
        ["172.30.0.48/28", "1", "free", ""],
        ["172.30.0.64/28", "1", "reserved", "192.168.77.2"],
        ["172.30.0.80/28", "11", "free", ""],
        ["rubbish", "0", "elsewhere", ""],
    ]
    document = ctl("subnet", "map", "-o", "json").document
    assert (document["subnets"], document["free"], len(document["stretches"])) == (15, 13, 5)
    assert document["stretches"][1]["record"]["publicIP"] == "192.168.77.1"
    drawn = ctl("subnet", "map", "-o", "table").out
    assert "172.30.0.0    .#.R..........." in drawn
    assert "192.168.77.2" in drawn
    picture = tmp_path / "map.svg"
    assert ctl("subnet", "map", "--svg", str(picture)).status == 1
    assert "172.30.0.32/28 192.168.77.1" in picture.read_text()
    printed = ctl("subnet", "map", "--svg", "-").out
    assert re.sub("[0-9]+ s left", "", printed) == re.sub("[0-9]+ s left", "", picture.read_text())
    keys.remove(f"{prefix}/subnets/rubbish")
    assert ctl("subnet", "map").status == ctl("subnet", "map", "--svg", str(picture)).status == 0
    told = ctl("subnet", "map", "--svg", str(tmp_path / "none" / "map.svg"))
    assert told.status == 1
    assert "No such file or directory; name one that is there, or a new one in a folder that is" in told.err
    os.mkfifo(tmp_path / "pipe")
    told = ctl("subnet", "map", "--svg", str(tmp_path / "pipe"))
    assert (told.status, "is a pipe, not a regular file; name a regular file" in told.err) == (1, True)


def test_what_the_store_does_not_prove_is_told(
    ctl: Run, prefix: str, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    if keys.api != "v2":
        pytest.skip("v3 proves all")
    monkeypatch.setattr(subnets_v2, "PAST_SECONDS", 0.5)

    async def unknown(_: V2Subnets, index: int, _last: int) -> tuple[None, int]:
        await trio.lowlevel.checkpoint()
        return None, index - 1

    monkeypatch.setattr(V2Subnets, "_next_of_all", unknown)
    keys.put(f"{prefix}/subnets/172.30.0.32-28", holder(1), 1000)
    keys.put(f"{prefix}/noise", "x")
    for form in ("table", "json"):
        told = ctl("subnet", "history", "172.30.0.32/28", "-o", form)
        assert told.status == 0
        assert "has not proven that it told all of them from" in told.err
    assert told.document["provenIndex"] == told.document["lastIndex"] - 1


def test_the_history_of_a_subnet_and_of_a_node(ctl: Run, prefix: str, keys: Keys) -> None:
    first, second = (f"{prefix}/subnets/172.30.0.{base}-28" for base in (32, 64))
    keys.put(first, holder(1), 1000)
    keys.put(first, holder(1), 1000)
    keys.put(first, holder(2), 1000)
    keys.put(second, holder(1))
    keys.remove(second)
    told = ctl("subnet", "history", "172.30.0.32/28")
    assert told.status == 0
    assert [(row[1], row[7], row[8]) for row in told.rows] == [
        ("192.168.77.1", "2", "taken by 192.168.77.2"),
        ("192.168.77.2", "1", "holds it now"),
    ]
    assert all(row[4].endswith("Z") for row in told.rows) is (keys.api == "v2")
    document = ctl("subnet", "history", "192.168.77.1", "-o", "json").document
    assert document["api"] == keys.api
    assert document["firstIndex"] <= document["spans"][0]["fromIndex"]
    assert document["provenIndex"] == document["lastIndex"]
    assert [(span["subnet"], span["end"]) for span in document["spans"]] == [
        ("172.30.0.32/28", "taken by 192.168.77.2"),
        ("172.30.0.64/28", "removed" if keys.api == "v2" else "removed or expired"),
    ]
    told = ctl("subnet", "history", "172.30.0.96/28")
    assert told.status == 3
    assert "not proven" not in told.err
    assert "nothing is known of it; the store remembers the changes from index" in told.err
