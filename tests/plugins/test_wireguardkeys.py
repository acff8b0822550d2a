"""The keys of the backend wireguard, and the steps of their change."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import pytest
from netstore_plugins.wireguardkeys import DRAIN_SECONDS, SLOTS, Keys, encode_key, parse_key, public_key

from netstore.agent.backend import Refused

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400


def test_a_public_key_is_that_of_rfc_7748() -> None:
    first = "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"  # section 5.2, one iteration
    assert public_key(bytes((9, *bytes(31)))).hex() == first


def test_a_key_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    [key] = Keys(tmp_path, 0).all
    path = tmp_path / "key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert parse_key(path.read_text().strip()) == key.private
    assert key.public == public_key(key.private)
    assert Keys(tmp_path, 0).all == [key]


def test_a_key_is_as_the_kernel_shows_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(encode_key(b"\xff" * 32))
    (tmp_path / "key").chmod(0o600)
    [key] = Keys(tmp_path, 0).all
    assert (key.private[0], key.private[31]) == (0xF8, 0x7F)


@pytest.mark.parametrize("text", ["", "short", encode_key(bytes(31)), encode_key(bytes(33)), "ä" * 44])
def test_a_file_that_is_no_key_is_refused_without_its_content(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(Refused) as caught:
        Keys(tmp_path, 0)
    assert str(tmp_path / "key") in str(caught.value)
    assert "remove it" in str(caught.value)
    assert not text or text not in str(caught.value)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    Keys(tmp_path, 0)
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(Refused, match="has mode 0644, so others may know it"):
        Keys(tmp_path, 0)


def test_no_private_key_is_shown(tmp_path: Path) -> None:
    [key] = Keys(tmp_path, 0).all
    shown = f"{key!r} {key} {[key]}"
    assert encode_key(key.private) not in shown
    assert repr(key.private) not in shown
    assert encode_key(key.public) in shown


def test_a_change_goes_step_by_step(tmp_path: Path) -> None:
    keys = Keys(tmp_path, 0)
    [old] = keys.all
    devices = {"wg"}
    keys.advance(old, 0.0)
    assert keys.all == [old]
    (tmp_path / "rotate").touch()
    keys.advance(old, 1.0)
    new = keys.all[-1]
    assert [key.slot for key in keys.all] == list(SLOTS)
    assert not (tmp_path / "rotate").exists()
    assert keys.offered(devices, ["wg"]) is old
    devices.add("wg-b")
    assert keys.offered(devices, ["wg"]) is new
    assert keys.published(old.public) is old
    assert keys.published(new.public) is new
    assert keys.published(bytes(32)) is None
    keys.advance(old, 2.0)  # the store has not confirmed the new one
    keys.advance(old, 2.0 + 2 * DRAIN_SECONDS)
    assert keys.all == [old, new]
    keys.advance(new, 1000.0)
    keys.advance(new, 999.0 + DRAIN_SECONDS)
    assert keys.all == [old, new]
    keys.advance(new, 1000.0 + DRAIN_SECONDS)
    assert keys.all == [new]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["key-b"]
    assert keys.offered(set(), ["wg"]) is new
    (tmp_path / "rotate").touch()
    keys.advance(new, 2000.0)
    assert [key.slot for key in keys.all] == [SLOTS[1], SLOTS[0]]


def test_a_change_goes_on_after_a_restart(tmp_path: Path) -> None:
    keys = Keys(tmp_path, 0)
    (tmp_path / "rotate").touch()
    keys.advance(keys.all[0], 0.0)
    os.utime(tmp_path / "key", (1, 1))  # file systems may tell no times that are a moment apart
    old, new = Keys(tmp_path, 0).all
    assert [old.public, new.public] == [key.public for key in keys.all]
    again = Keys(tmp_path, 0)
    assert again.offered({"wg"}, ["wg"]) == old
    assert again.offered({"wg", "wg-b"}, ["wg"]) == new
    assert again.offered({"wg-b"}, ["wg"]) == new
    assert again.offered(set(), ["wg"]) == old  # nothing is known yet
    assert again.offered({"wg", "wg-b", "wg6"}, ["wg", "wg6"]) == old


def test_a_key_is_changed_at_the_end_of_its_life_spread_over_a_tenth_of_it(tmp_path: Path) -> None:
    keys = Keys(tmp_path, 10 * DAY)
    now = time.time()
    os.utime(tmp_path / "key", (now, now - 8.9 * DAY))
    keys = Keys(tmp_path, 10 * DAY)
    keys.advance(keys.all[0], 0.0)
    assert len(keys.all) == 1
    os.utime(tmp_path / "key", (now, now - 10.1 * DAY))
    keys = Keys(tmp_path, 10 * DAY)
    keys.advance(keys.all[0], 0.0)
    assert len(keys.all) == 2


def test_without_a_lifetime_a_key_is_kept_for_ever(tmp_path: Path) -> None:
    Keys(tmp_path, 0)
    os.utime(tmp_path / "key", (1, 1))
    keys = Keys(tmp_path, 0)
    keys.advance(keys.all[0], 0.0)
    assert len(keys.all) == 1
