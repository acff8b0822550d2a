"""`netstorectl key` against real stores."""

from __future__ import annotations

import json
import re
import urllib.request
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.commands.conftest import Run


def test_set_then_get(ctl: Run, prefix: str) -> None:
    assert ctl("key", "set", f"{prefix}/a", "one").out == "one\n"
    told = ctl("key", "get", f"{prefix}/a")
    assert (told.status, told.out, told.err) == (0, "one\n", "")


def test_a_key_needs_no_slash_in_front_and_is_cleaned(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix.lstrip('/')}//x/../a/", "one")
    assert ctl("key", "get", f"{prefix}/a").out == "one\n"


@pytest.mark.parametrize(
    "value", ["", "two\nlines", "tab\t\x1b[31m\x00\x7f", "grüße €", "a=b&c;d+e%20<>\u2028", "x" * 100_000]
)
def test_values_come_back_byte_for_byte(ctl: Run, prefix: str, value: str) -> None:
    ctl("key", "set", f"{prefix}/a", value)
    assert ctl("key", "get", f"{prefix}/a").out == f"{value}\n"


def test_value_from_standard_input_keeps_its_line_end(ctl: Run, prefix: str) -> None:
    told = ctl("key", "set", f"{prefix}/a", stdin=b"from stdin\n")
    assert (told.status, told.out) == (0, "from stdin\n\n")
    assert ctl("key", "mk", f"{prefix}/b", stdin=b"x").out == "x\n"


def test_value_neither_given_nor_on_standard_input_is_a_usage_error(ctl: Run, prefix: str) -> None:
    told = ctl("key", "set", f"{prefix}/a")
    assert told.status == 2
    assert "VALUE: neither given nor on standard input" in told.err
    assert ctl("key", "get", f"{prefix}/a").status == 3


def test_value_that_is_not_text_is_refused(ctl: Run, prefix: str) -> None:
    told = ctl("key", "set", f"{prefix}/a", stdin=b"\xff\xfe")
    assert told.status == 1
    assert told.err.startswith("netstorectl: VALUE: not UTF-8")
    told = ctl("key", "set", f"{prefix}/a", "\udcff")
    assert told.status == 1
    assert told.err.startswith("netstorectl: VALUE: not UTF-8")


def test_key_that_is_not_text_is_a_usage_error(ctl: Run) -> None:
    assert ctl("key", "get", "/\udcff").status == 2


def test_get_in_json_is_the_answer_of_the_store(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/a", "one", "--ttl", "1000")
    answer = ctl("key", "get", f"{prefix}/a", "-o", "json").document
    assert answer["action"] == "get"
    node = answer["node"]
    assert (node["key"], node["value"]) == (f"{prefix}/a", "one")
    assert 900 < node["ttl"] <= 1000
    assert node["createdIndex"] == node["modifiedIndex"] <= answer["etcdIndex"]
    assert answer["prevNode"] is None


def test_json_of_a_write_has_the_node_before(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/a", "one")
    answer = ctl("key", "set", f"{prefix}/a", "two", "-o", "json").document
    assert (answer["node"]["value"], answer["prevNode"]["value"]) == ("two", "one")


def test_ls(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/b/c", "1")
    ctl("key", "set", f"{prefix}/a", "2")
    ctl("key", "mkdir", f"{prefix}/d")
    assert ctl("key", "ls", "--sort", prefix).out == f"{prefix}/a\n{prefix}/b\n{prefix}/d\n"
    assert ctl("key", "ls", "--sort", "-p", prefix).out == f"{prefix}/a\n{prefix}/b/\n{prefix}/d/\n"
    assert (
        ctl("key", "ls", "--sort", "-r", "--quorum", prefix).out
        == f"{prefix}/a\n{prefix}/b\n{prefix}/b/c\n{prefix}/d\n"
    )
    assert ctl("key", "ls", f"{prefix}/a").out == f"{prefix}/a\n"
    assert ctl("key", "ls", f"{prefix}/d").out == ""
    assert prefix in ctl("key", "ls").out.splitlines()


def test_ls_in_json_is_a_tree(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/b/c", "1")
    node = ctl("key", "ls", "-r", prefix, "-o", "json").document["node"]
    assert node["nodes"][0]["nodes"][0]["value"] == "1"
    assert node["nodes"][0]["dir"] is True


def test_ls_in_a_table_shortens_values(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/long", "x" * 500)
    ctl("key", "mkdir", f"{prefix}/dir", "--ttl", "1000")
    out = ctl("key", "ls", "-p", prefix, "-o", "table").out
    assert "x" * 120 + "..." in out
    assert "x" * 121 not in out
    assert "(directory)" in out
    assert re.search(r"\b(9\d\d|1000)\b", out)


def test_keys_with_odd_names_are_escaped_in_listings(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/tab\there", "1")
    assert ctl("key", "ls", prefix).out == f"{prefix}/tab\\there\n"
    assert ctl("key", "get", f"{prefix}/tab\there").out == "1\n"


def test_a_tree_too_deep_to_be_shown_is_told(ctl: Run, prefix: str) -> None:
    deep = f"{prefix}{'/a' * 1500}"
    written = ctl("key", "set", deep, "1")
    if written.status:  # netstored takes no key so deep, so none can make such a tree there
        assert "more than 256 names" in written.err
        return
    assert ctl("key", "get", deep).out == "1\n"
    assert ctl("key", "ls", f"{prefix}/a").out == f"{prefix}/a/a\n"
    told = ctl("key", "ls", "-r", prefix)
    assert told.status == 4
    assert "nested too deep to read: ask for a part of it" in told.err
    assert ctl("key", "rm", "-r", prefix).status == 0


def test_ttl(ctl: Run, prefix: str) -> None:
    def ttl() -> int | None:
        found = ctl("key", "get", f"{prefix}/a", "-o", "json").document["node"].get("ttl")
        assert found is None or isinstance(found, int)
        return found

    ctl("key", "set", f"{prefix}/a", "1", "--ttl", "1000")
    assert ttl() in range(900, 1001)
    ctl("key", "set", f"{prefix}/a", "1", "--ttl", "0")
    assert ttl() is None
    ctl("key", "mk", f"{prefix}/b", "1", "--ttl", "1000")
    assert ctl("key", "get", f"{prefix}/b", "-o", "json").document["node"]["ttl"] in range(900, 1001)


@pytest.mark.parametrize("ttl", ["-1", "x", "1.5", "9000000001", ""])
def test_bad_ttl_is_a_usage_error(ctl: Run, prefix: str, ttl: str) -> None:
    told = ctl("key", "set", f"{prefix}/a", "1", "--ttl", ttl)
    assert told.status == 2
    assert "--ttl" in told.err
    assert "whole number from 0 to 9000000000" in told.err


def test_swap_with_value(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/a", "one")
    assert ctl("key", "set", "--swap-with-value", "one", f"{prefix}/a", "two").out == "two\n"
    told = ctl("key", "set", "--swap-with-value", "one", f"{prefix}/a", "three")
    assert (told.status, told.out) == (1, "")
    assert told.err == (
        "netstorectl: compare failed [one != two]: the key was changed meanwhile; read it again\n"
    )
    assert ctl("key", "set", "--swap-with-value", "", f"{prefix}/a", "three").status == 2
    assert ctl("key", "set", "--swap-with-value", "x", f"{prefix}/none", "y").status == 3


def test_swap_with_index(ctl: Run, prefix: str) -> None:
    index = ctl("key", "set", f"{prefix}/a", "one", "-o", "json").document["node"]["modifiedIndex"]
    assert ctl("key", "set", "--swap-with-index", str(index), f"{prefix}/a", "two").status == 0
    assert ctl("key", "set", "--swap-with-index", str(index), f"{prefix}/a", "three").status == 1
    assert ctl("key", "get", f"{prefix}/a").out == "two\n"
    assert ctl("key", "set", "--swap-with-index", "0", f"{prefix}/a", "three").status == 2


def test_mk_refuses_what_exists(ctl: Run, prefix: str) -> None:
    assert ctl("key", "mk", f"{prefix}/a", "one").out == "one\n"
    told = ctl("key", "mk", f"{prefix}/a", "two")
    assert (told.status, told.err) == (1, f"netstorectl: {prefix}/a: exists already\n")


def test_mk_in_order_prints_the_name_it_got(ctl: Run, prefix: str) -> None:
    first = ctl("key", "mk", "--in-order", f"{prefix}/q", "one").out.strip()
    second = ctl("key", "mk", "--in-order", f"{prefix}/q", "two").out.strip()
    assert f"{prefix}/q/" < first < second
    assert ctl("key", "get", second).out == "two\n"


def test_mkdir_and_rmdir(ctl: Run, prefix: str) -> None:
    told = ctl("key", "mkdir", f"{prefix}/d", "--ttl", "1000")
    assert (told.status, told.out) == (0, "")
    assert ctl("key", "mkdir", f"{prefix}/d").status == 1
    told = ctl("key", "get", f"{prefix}/d")
    assert (told.status, told.err) == (
        1,
        f"netstorectl: {prefix}/d: is a directory; list it with key ls {prefix}/d\n",
    )
    ctl("key", "set", f"{prefix}/d/a", "1")
    assert "not empty" in ctl("key", "rmdir", f"{prefix}/d").err
    told = ctl("key", "rmdir", f"{prefix}/d/a")
    assert (told.status, told.err) == (
        1,
        f"netstorectl: {prefix}/d/a: is a file; remove it with key rm {prefix}/d/a\n",
    )
    ctl("key", "rm", f"{prefix}/d/a")
    told = ctl("key", "rmdir", f"{prefix}/d")
    assert (told.status, told.out, told.err) == (0, "", "")
    assert ctl("key", "rmdir", f"{prefix}/d").status == 3


def test_rm(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/d/a", "1")
    told = ctl("key", "rm", f"{prefix}/d")
    assert told.status == 1
    assert (
        f"{prefix}/d: is a directory; key rm --dir removes it if it is empty, key rm --recursive" in told.err
    )
    assert ctl("key", "rm", "--dir", f"{prefix}/d").status == 1
    told = ctl("key", "rm", f"{prefix}/d/a")
    assert (told.status, told.out) == (0, "")
    assert ctl("key", "rm", f"{prefix}/d/a").status == 3
    assert ctl("key", "rm", "--dir", f"{prefix}/d").status == 0
    ctl("key", "set", f"{prefix}/e/a/b", "1")
    assert ctl("key", "rm", "-r", f"{prefix}/e").status == 0
    assert ctl("key", "rm", "-r", "/").err == "netstorectl: /: the root cannot be changed\n"


def test_rm_compares(ctl: Run, prefix: str) -> None:
    index = ctl("key", "set", f"{prefix}/a", "one", "-o", "json").document["node"]["modifiedIndex"]
    assert ctl("key", "rm", "--with-value", "two", f"{prefix}/a").status == 1
    assert ctl("key", "rm", "--with-index", str(index + 1), f"{prefix}/a").status == 1
    assert ctl("key", "rm", "--with-value", "one", "-r", f"{prefix}/a").status == 2
    assert ctl("key", "rm", "--with-value", "", f"{prefix}/a").status == 2
    assert ctl("key", "rm", "--with-value", "one", "--with-index", str(index), f"{prefix}/a").status == 0
    assert ctl("key", "get", f"{prefix}/a").status == 3


def test_a_file_in_the_way_is_named(ctl: Run, prefix: str) -> None:
    ctl("key", "set", f"{prefix}/a", "1")
    told = ctl("key", "set", f"{prefix}/a/b", "1")
    assert (told.status, told.err) == (
        1,
        f"netstorectl: {prefix}/a: is a file, so nothing can be below it\n",
    )


def test_not_found_names_what_is_missing(ctl: Run, prefix: str) -> None:
    told = ctl("key", "get", f"{prefix}/none")
    assert (told.status, told.out, told.err) == (3, "", f"netstorectl: {prefix}: not found\n")


def test_watch_shows_what_happened_since(ctl: Run, prefix: str) -> None:
    index = ctl("key", "set", f"{prefix}/a", "one\n", "-o", "json").document["etcdIndex"]
    ctl("key", "rm", f"{prefix}/a")
    told = ctl("key", "watch", "--after-index", str(index - 1), f"{prefix}/a")
    assert told.rows == [["set", f"{prefix}/a", str(index), "one\\n"]]
    told = ctl("key", "watch", "-r", "--after-index", str(index), prefix)
    assert told.rows == [["delete", f"{prefix}/a", str(index + 1), ""]]
    told = ctl("key", "watch", "-r", "--after-index", str(index), prefix, "-o", "json")
    assert (told.document["action"], told.document["prevNode"]["value"]) == ("delete", "one\n")
    told = ctl("key", "watch", "--after-index", str(index - 1), f"{prefix}/a", "-o", "table")
    assert told.out == f"set               {prefix}/a  one\\n\n"


def test_watch_of_events_that_are_gone_says_so(ctl: Run, prefix: str, store: str) -> None:
    first = ctl("key", "set", f"{prefix}/a", "0", "-o", "json").document["etcdIndex"]
    for number in range(1001):
        request = urllib.request.Request(  # noqa: S310 - the address of a store of ours
            f"{store}/v2/keys{prefix}/a", data=f"value={number}".encode(), method="PUT"
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - same
            json.load(answer)
    told = ctl("key", "watch", "--after-index", str(first - 1), f"{prefix}/a")
    assert (told.status, told.out) == (1, "")
    assert told.err.startswith(
        "netstorectl: the events asked for are gone from the store's memory: "
        "the requested history has been cleared ["
    )
    assert told.err.endswith("; read the keys again\n")
