"""SIGKILL at any moment loses nothing acknowledged.

Writers load a real daemon over keep-alive connections and note every answer. The daemon is killed at a random
moment, started again on the same folder, and its whole tree is compared with the notes: an acknowledged write
is there; one without an answer may be there or not; nothing is older than
acknowledged; the store's index never goes back. Some of the kills hit a daemon that is only just starting.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import pytest

from tests.support.daemon import Daemon, start_netstored
from tests.support.patience import seconds

if TYPE_CHECKING:
    from pathlib import Path

KILLS: Final = 50
WRITERS: Final = 4
KEYS_EACH: Final = 20
MOST_LOAD_SECONDS: Final = 0.35
"""Longest time under load before a kill; short, because what matters is how many moments are tried."""

START_KILL_EVERY: Final = 7
"""Every so many rounds the daemon is killed once more while it starts."""

FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}


@dataclass
class Note:
    """What one key may hold."""

    value: str
    index: int
    maybe: str | None = None
    """Sent, never answered: it may or may not have happened."""


@dataclass
class Notes:
    """Everything one writer was told."""

    keys: dict[str, Note] = field(default_factory=dict)
    appended: set[str] = field(default_factory=set)
    index: int = 0
    writes: int = 0


def _request(connection: http.client.HTTPConnection, method: str, path: str, **form: str) -> dict[str, Any]:
    body = urlencode(form) if form else None
    connection.request(method, f"/v2/keys{path}", body, FORM if form else {})
    response = connection.getresponse()
    answer = json.loads(response.read())
    assert response.status in {200, 201}, answer
    answer["index"] = int(response.headers["X-Etcd-Index"])
    assert isinstance(answer, dict)
    return answer


class Writer(threading.Thread):
    """Sets its own keys and appends to the common queue until the connection breaks."""

    def __init__(self, daemon: Daemon, number: int, notes: Notes) -> None:
        super().__init__(name=f"writer-{number}", daemon=True)
        self._daemon = daemon
        self._number = number
        self._notes = notes
        self.refusals: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection(self._daemon.host, self._daemon.port, timeout=seconds(10))
        try:
            while True:
                self._write(connection)
        except (OSError, http.client.HTTPException):
            pass  # the kill; what was under way is noted as such
        except AssertionError as refusal:
            self.refusals.append(str(refusal))
        finally:
            connection.close()

    def _write(self, connection: http.client.HTTPConnection) -> None:
        notes = self._notes
        notes.writes += 1
        if notes.writes % 8 == 0:
            answer = _request(connection, "POST", "/kill/queue", value=f"{self._number}:{notes.writes}")
            notes.appended.add(answer["node"]["key"])
        else:
            key = f"/kill/w{self._number}/k{notes.writes % KEYS_EACH}"
            note = notes.keys.setdefault(key, Note("", 0))
            value = note.maybe = str(notes.writes)
            answer = _request(connection, "PUT", key, value=value)
            note.value, note.index, note.maybe = value, answer["node"]["modifiedIndex"], None
        assert answer["index"] > notes.index, "the index stood still or went back under load"
        notes.index = answer["index"]


def _leaves(node: dict[str, Any]) -> dict[str, dict[str, Any]]:
    if not node.get("dir"):
        return {node["key"]: node}
    return {key: leaf for child in node.get("nodes", ()) for key, leaf in _leaves(child).items()}


def _compare(daemon: Daemon, everyone: list[Notes], seen_index: int) -> int:
    """Hold the daemon's tree against the notes; returns the store's index. Settles what was unknown."""
    connection = http.client.HTTPConnection(daemon.host, daemon.port, timeout=seconds(20))
    try:
        answer = _request(connection, "GET", "/kill?recursive=true")
        stored = _leaves(answer["node"])
        index = answer["index"]
        assert isinstance(index, int)
        assert index >= max(seen_index, *(notes.index for notes in everyone)), "the index went back"
        recent: tuple[str, Note] | None = None
        for notes in everyone:
            assert not notes.appended - stored.keys(), "an acknowledged append is gone"
            for key, note in notes.keys.items():
                leaf = stored.get(key)
                if leaf is None:
                    assert not note.index, f"{key}: {note.value!r} was acknowledged and is gone"
                    continue
                assert leaf["value"] in {note.value, note.maybe}, f"{key} is {leaf['value']!r}, noted {note}"
                assert leaf["modifiedIndex"] >= note.index, f"{key} went back behind {note}"
                if leaf["value"] == note.value and note.index:
                    assert leaf["modifiedIndex"] == note.index, f"{key} changed its index, noted {note}"
                note.value, note.index, note.maybe = leaf["value"], leaf["modifiedIndex"], None
                if recent is None or note.index > recent[1].index:
                    recent = key, note
        if recent is not None:
            key, note = recent
            event = _request(connection, "GET", f"{key}?wait=true&waitIndex={note.index}")
            assert event["node"]["value"] == note.value, "the event window lost the last event"
        return index
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    moments = random.SystemRandom()
    everyone = [Notes() for _ in range(WRITERS)]
    seen_index = 0
    with start_netstored(tmp_path) as daemon:
        for kill in range(KILLS):
            writers = [Writer(daemon, number, notes) for number, notes in enumerate(everyone)]
            for writer in writers:
                writer.start()
            time.sleep(moments.uniform(0.0, MOST_LOAD_SECONDS))  # fixed: any moment
            daemon.kill()
            for writer in writers:
                writer.join(seconds(20))
                assert not writer.is_alive()
                assert not writer.refusals, writer.refusals
            if kill % START_KILL_EVERY == 0:
                daemon.spawn_again()
                time.sleep(moments.uniform(0.0, 0.6))  # fixed: any moment
                daemon.kill()
            daemon.start_again()
            try:
                if any(notes.index for notes in everyone):
                    seen_index = _compare(daemon, everyone, seen_index)
            except AssertionError as failure:
                failure.add_note(f"after kill {kill}")
                raise
        assert daemon.stop() == 0
    assert sum(notes.writes for notes in everyone) > KILLS * WRITERS
    assert all(notes.appended for notes in everyone)
    assert "Traceback" not in daemon.log
