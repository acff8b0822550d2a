"""A killed member catches up while clients write as fast as the others accept: the log in memory is so small
that the entries after a state copy would be compacted before the copy has arrived.
"""

from __future__ import annotations

import http.client
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.support.cluster import PACE, START_SECONDS, Members, converged, cut_before, request, write
from tests.support.patience import seconds, until

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from tests.support.daemon import Daemon


SMALL_MEMORY = ("--memory-budget", str(64 << 20))
"""A quarter of it is the log's: 16 MiB."""

VALUE = "x" * (64 << 10)
KEYS = 640
"""The state has 40 MiB."""

WRITERS = 8

CAUGHT_UP_SECONDS = 120.0
"""A member may be waited for up to 256 seconds; on an idle machine it takes about five."""


class Writers:
    """Threads that write without a pause to one member."""

    def __init__(self, daemon: Daemon) -> None:
        self._address = urlsplit(daemon.url).netloc
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]
        self.written = [0] * WRITERS
        self.refused: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def count(self) -> int:
        return sum(self.written)

    def _write(self, number: int) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=seconds(30))
        own = range(number, KEYS, WRITERS)
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        while not self._stop.is_set():
            key = own[self.written[number] % len(own)]
            connection.request("PUT", f"/v2/keys/load/{key}", f"value={VALUE}", kind)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status in (200, 201):
                self.written[number] += 1
            else:
                self.refused.append(text.decode(errors="replace")[:200])
        connection.close()


def test_a_killed_member_catches_up_while_writes_go_on(tmp_path: Path) -> None:
    with Members(tmp_path, flags=(*PACE, *SMALL_MEMORY)) as members:
        leader = members[members.leader()]
        late = members.followers()[0]
        id_ = members.id_of(late)

        def seen() -> dict[str, Any]:
            listed = request(leader, "GET", "/netstore/members").body["members"]
            [found] = (each for each in listed if each["id"] == id_)
            return dict(found)

        with Writers(leader) as writers:
            until(lambda: writers.count > KEYS, "the state has all keys", CAUGHT_UP_SECONDS)
            members[late].kill()
            last = seen()["matchIndex"]
            until(lambda: cut_before(leader) > last, "the log it needs is forgotten", CAUGHT_UP_SECONDS)
            members[late].spawn_again()
            states: list[Any] = []

            def is_back() -> bool:
                member = seen()
                states.append(member)
                return member["active"] and member["matchIndex"] > last and "behind" not in member

            until(is_back, "it follows again", CAUGHT_UP_SECONDS)
            before = writers.count
            until(lambda: writers.count > before, "writes go on")
        assert "copying" in str(states), states[-3:]
        assert '"writes_paced"' in leader.log
        assert leader.log.count('"state_copy_sent"') == 1, "the first one was of use"
        assert not [each for each in writers.refused if "too many" in each]
        members[late].wait_until_healthy(START_SECONDS)
        write(leader, "last", "1")
        converged(members, "last", "1")
