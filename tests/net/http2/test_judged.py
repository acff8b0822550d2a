"""Frames and flow control as `h2`, a client that checks RFC 9113, sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h2.events
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from netstore.net import http2
from netstore.net.http2 import (
    SETTINGS,
    WINDOW_UPDATE,
)
from tests.support.h2client import REQUEST, Judged, Wire, frames

if TYPE_CHECKING:
    from collections.abc import Iterable


PATTERN = bytes(range(251)) * 160


@given(
    st.lists(st.integers(0, 40_000), min_size=1, max_size=5),
    st.lists(st.sampled_from([1, 7, 9, 10, 1_000, 16_383, 16_393, 40_000]), min_size=1, max_size=8),
    st.sampled_from([1, 100, 16_383, 65_535, 1_000_000]),
    st.sampled_from([16_384, 20_000, 1_000_000]),
    st.sampled_from([0, 100, 4096]),
)
def test_h2_gets_its_bodies_back_for_any_split_sizes_and_settings(
    sizes: list[int], cuts: list[int], window: int, largest: int, table: int
) -> None:
    def cut(data: bytes) -> Iterable[bytes]:
        turn = 0
        while data:
            size = cuts[turn] if turn < len(cuts) else 5_000
            yield data[:size]
            data = data[size:]
            turn += 1

    bodies = [PATTERN[:size] for size in sizes]
    if window == 1:
        bodies = [body[:40] for body in bodies]
    judged = Judged(
        settings={
            SettingCodes.INITIAL_WINDOW_SIZE: window,
            SettingCodes.MAX_FRAME_SIZE: largest,
            SettingCodes.HEADER_TABLE_SIZE: table,
            SettingCodes.ENABLE_PUSH: 0,
        },
        cut=cut,
    )
    asked = {judged.ask(body): body for body in bodies}
    judged.settle()
    assert judged.ended == set(asked)
    assert {number: judged.bodies.get(number, b"") for number in asked} == asked
    assert not judged.connection.streams
    assert judged.connection.queued == 0
    trailers = [e for e in judged.events if isinstance(e, h2.events.TrailersReceived)]
    assert len(trailers) == len(asked)


def test_h2_sees_a_padded_request_with_priority_and_trailers() -> None:
    judged = Judged()
    client = judged.client
    client.send_headers(1, REQUEST, priority_weight=7, priority_depends_on=0)
    client.send_data(1, b"body", pad_length=255)
    client.prioritize(1, weight=3)
    client.send_headers(1, [("some", "trailer")], end_stream=True)
    judged.settle()
    assert judged.bodies == {1: b"body"}
    assert judged.ended == {1}


def test_h2_sees_its_pings_answered() -> None:
    judged = Judged()
    judged.client.ping(b"12345678")
    judged.settle()
    assert [e.ping_data for e in judged.events if isinstance(e, h2.events.PingAckReceived)] == [b"12345678"]


def test_an_answer_before_the_end_of_the_request_resets_with_no_error() -> None:
    judged = Judged(hold=True)
    judged.client.send_headers(1, REQUEST)
    judged.client.send_data(1, b"some")
    judged.settle()
    judged.application.streams[1].answer(b"enough")
    judged.settle()
    assert judged.bodies == {1: b"enough"}
    assert judged.resets == {1: http2.NO_ERROR}


def test_our_settings_announce_our_limits() -> None:
    sent = frames(Wire(greet=False).output.sent)
    assert [each.kind for each in sent] == [SETTINGS, WINDOW_UPDATE]
    judged = Judged().settle()
    remote = judged.client.remote_settings
    assert remote.initial_window_size == http2.STREAM_WINDOW
    assert remote.max_concurrent_streams == http2.MAX_STREAMS
    assert remote.max_header_list_size == http2.LIST_LIMIT
    assert judged.client.outbound_flow_control_window == http2.CONNECTION_WINDOW
