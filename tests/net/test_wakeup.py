"""Waking up the loop: one byte at most is on its way."""

from __future__ import annotations

import select

from netstore.net.wakeup import Wakeup


def ready(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup.fd], [], [], 0)[0])


def test_a_wakeup_is_sent_once_and_not_in_a_round() -> None:
    wakeup = Wakeup()
    wakeup.in_round = True
    wakeup.send_if_needed()
    assert not ready(wakeup)
    wakeup.in_round = False
    for _ in range(3):
        wakeup.send_if_needed()
    assert (ready(wakeup), wakeup.pending) == (True, True)
    assert wakeup._reader.recv(64) == b"\0"
    wakeup._writer.send(b"\0")
    wakeup.receive()
    assert (ready(wakeup), wakeup.pending) == (False, False)
    wakeup.close()


def test_bytes_that_nobody_reads_do_not_block_who_sends() -> None:
    wakeup = Wakeup()
    for _ in range(100_000):
        wakeup.send()
    while ready(wakeup):
        wakeup.receive()
    wakeup.close()
