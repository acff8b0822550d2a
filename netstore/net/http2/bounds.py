"""Limits of one HTTP/2 connection, with the reason for each; `net/DESIGN.md` has a table of them."""

from __future__ import annotations

from typing import Final

MAX_STREAMS: Final = 16_384
"""Open streams of one connection. Each watch cache and informer of Kubernetes holds hundreds."""

STREAM_WINDOW: Final = 64 * 1024
"""Receive window of a stream, as in most servers. For a larger body or message the window is opened for all
of it once memory is admitted (`bodyadmission`).
"""

CONNECTION_WINDOW: Final = 4 * 1024 * 1024
"""Receive window of the connection."""

LIST_LIMIT: Final = 64 * 1024
"""Size of a header list (SETTINGS_MAX_HEADER_LIST_SIZE; RFC 9113, 6.5.2), and of an encoded header block."""

MAX_CONTINUATIONS: Final = 16
"""CONTINUATION frames of one header block."""

FRAME_LIMIT: Final = 64 * 1024
"""Largest frame that we send, also to a peer that takes larger ones (SETTINGS_MAX_FRAME_SIZE). Until the peer
says so, frames have 16 KiB at most; larger ones that it sends are refused (`frames.MAX_FRAME`).
"""

UNSENT_LIMIT: Final = 240 * 1024
"""Unsent bytes of a connection at which no further DATA is framed, so that later data of another stream waits
behind little more than this. A little less than the kernel takes at once (`acceptor.KERNEL_BUFFER`): of more,
the rest would be sent in a turn of its own.
"""

QUEUED_LIMIT: Final = 1024 * 1024
"""Queued bytes of a connection beyond which no new request of it is handled; messages of streams are, which
have limits of their own. Reading goes on, because WINDOW_UPDATE must be read, but our connection window is
not opened again. One answer may be far larger: it is given in pieces.
"""

QUEUED_LIMIT_OVER: Final = 64 * 1024
"""The same once the memory budget of all connections is spent."""

EVENTS_LIMIT: Final = 8 * 1024 * 1024
"""Queued bytes of a connection beyond which a stream whose window is closed gets no more events. A single
stream may have half of it queued.
"""

ANSWERS_LIMIT: Final = 512 * 1024
"""Queued bytes of answers of a connection (streaming calls not counted) beyond which no further piece of a
long answer is requested, on any stream. The last piece may exceed it by one key-value pair, which is no
larger than a request.
"""

ANSWERS_LIMIT_OVER: Final = 64 * 1024
"""The same once the memory budget of all connections is spent."""

ROOM_CALLS_AT_ONCE: Final = 4
"""Streams whose `drained` is called in one turn because there is room; for further ones another turn is
requested, since these may have used it up.
"""

STALL_SECONDS: Final = 30.0
"""How long answers may be queued for the peer's windows while less than `STALL_RATE` is sent."""

STALL_RATE: Final = 1024
"""Bytes a second that the peer's windows must let through."""

PREFACE_SECONDS: Final = 10.0
"""Time limit for the preface and the first SETTINGS, from when the protocol is known: by ALPN, or by the
preface itself (`front`).
"""

BLOCK_SECONDS: Final = 10.0
"""Time limit for a header block, from HEADERS to the last CONTINUATION."""

FRAME_SECONDS: Final = 30.0
"""Time limit for a frame, from its first byte to its last."""

REQUEST_SECONDS: Final = 60.0
"""Period in which an incomplete request (from its HEADERS) or message of a stream (from its first byte) must
be completed, or arrive at `REQUEST_RATE`; then a new period starts. A stream without a byte of a message has
no limit: clients open streams before they have something to send.
"""

REQUEST_RATE: Final = 1024
"""Minimum bytes a second of an incomplete request or message, over each `REQUEST_SECONDS`."""

REQUEST_CHECK_SECONDS: Final = 5.0
"""How often a connection with incomplete requests checks their time limits."""

STREAM_COST: Final = 512
"""Bytes that an open stream takes by itself: 380 for each of 800,000 calls, and more for what is larger."""

MAX_STREAMS_OVER: Final = 1_024
"""Open streams of one connection beyond which new ones are refused once the memory budget is spent: open
streams stay charged however fast the client reads, so pausing it would free nothing.
"""

MAX_UNFINISHED: Final = 2_048
"""Incomplete requests of one connection, and streams without a message yet: 1 MiB. Clients send a request at
once, or in few pieces.
"""

HELD_LIMIT: Final = 32 * 1024 * 1024
"""Bytes of incomplete requests and messages of one connection."""

HELD_LIMIT_OVER: Final = 2 * 1024 * 1024
"""The same once the memory budget of all connections is spent: one message."""

EMPTY_FRAMES_BURST: Final = 500
"""Frames that carry nothing (SETTINGS, PRIORITY, GOAWAY, empty DATA, acknowledgements, unknown types, resets
of closed streams) that a client may send in one burst; `REFILL_RATE` more for each second that passes.
"""

EARLY_RESETS_BURST: Final = 500
"""Streams reset within a second of being opened, or for an error of the client, that a connection may have in
one burst (CVE-2023-44487); `REFILL_RATE` more for each second that passes.
"""

REFILL_RATE: Final = 100
"""Frames and resets a second by which those two allowances grow again."""

PING_SECONDS: Final = 5.0
"""Minimum interval of PINGs from a client with open streams, as in etcd."""

IDLE_PING_SECONDS: Final = 2 * 3600.0
"""Minimum interval of PINGs from a client without open streams."""

MAX_PING_STRIKES: Final = 2
"""PINGs that may come too soon between two answers of ours."""

STRIKES_AFTER_DATA: Final = -1
"""`Http2Connection.strikes` after we send data: one more PING is allowed, because gRPC probes the bandwidth
then.
"""

PROBE_SECONDS: Final = 2 * 3600.0
"""A connection that was silent for this long is sent a PING."""

PROBE_ANSWER_SECONDS: Final = 20.0
"""Time limit for the answer to that PING, after which the connection is cut."""

TURN_WORK: Final = 1_000
"""Units of work that a connection may cause in one turn; the rest of what was read waits for the next. A unit
is about a microsecond of one core of 2020.
"""

WORK_RATE: Final = 500_000
"""Sustained units of work a second of one connection. A busy client needs 17 for each request, 21 with a
varying time limit, so this is more requests than a core answers.
"""

WORK_BURST: Final = 500_000
"""Units that a connection may cause at once beyond that rate."""

SHORT_TURN_WORK: Final = 250
"""Units of a turn once all connections have caused `ROUND_WORK` in a round, or while a connection with little
load waits (`Output.short_turn`): a few requests, or one expensive frame. So a round stays short however many
connections are busy, and clients with few requests are not delayed.
"""

ROUND_WORK: Final = 3_000
"""Units of work in one round (3 ms) after which turns are short."""

ENDED_AT_ONCE: Final = 64
"""Streams of closed connections that are freed in one round, and slow or stalled streams that are reset in
one sweep; a watch takes 10 us.
"""

MAX_PAUSES: Final = 10
"""How often a connection may exceed its rate of work, and be paused until it is within the rate, before it is
closed; one more for each minute that passes.
"""

HANDLING_WORK: Final = 10
"""Units for handing over one request or message. Handlers are charged no more, so the work a handler does at
once must be bounded by the size of its message, not by the state of the member or the connection.
"""

STREAMS_PER_UNIT: Final = 8
"""Streams looked at in a loop that count as one unit."""
