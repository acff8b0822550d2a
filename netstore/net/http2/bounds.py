"""What one HTTP/2 connection may do and hold, and why so much; `net/DESIGN.md` has a table of it."""

from __future__ import annotations

from typing import Final

MAX_STREAMS: Final = 16_384
"""Open streams of one connection. Each watch cache and informer of Kubernetes holds hundreds."""

STREAM_WINDOW: Final = 64 * 1024
"""Bytes a client may send on a stream ahead of us, as most servers let it. A larger body or message has its
window opened for all of it once it has its memory (`intake`), which it may have to wait for.
"""

CONNECTION_WINDOW: Final = 4 * 1024 * 1024
"""Bytes a client may send on all streams ahead of us."""

LIST_LIMIT: Final = 64 * 1024
"""Size of a header list as RFC 9113 (6.5.2) counts it, and of a header block as it is sent."""

CONTINUATIONS: Final = 16
"""Frames that one header block may be spread over."""

PACE: Final = 256 * 1024
"""Unsent bytes of a connection beyond which no further DATA is framed: what comes later on another stream
then waits behind at most this much.
"""

HOLD: Final = 1024 * 1024
"""Answered bytes of a connection that its peer's windows hold back, beyond which no new request of it is
handled; messages of streams are, which have a pace of their own. Reading goes on, because only what is read
opens the windows; but then ours are not opened again. One answer may be far larger: it is given in pieces.
"""

HOLD_OVER: Final = 64 * 1024
"""The same once the memory for all connections is spent."""

CROWD: Final = 8 * 1024 * 1024
"""Bytes of a connection that its peer's windows hold back, on all streams together, beyond which a stream
whose window is closed is told no more events. A single one may hold half of it.
"""

GIVEN: Final = 512 * 1024
"""Bytes of answers (those of streams of messages aside) that wait on a connection for windows or their turn,
beyond which no more of a long answer is asked for, on any of its streams. What is given at last may be one
pair, of at most a request's size, beyond it.
"""

GIVEN_OVER: Final = 64 * 1024
"""The same once the memory for all connections is spent."""

TOLD_AT_ONCE: Final = 4
"""Streams that are told at once that there is room: the next ones are when these have not filled it."""

STALL_SECONDS: Final = 30.0
"""How long answers may be held back by the peer's windows while less than `STALL_RATE` gets through."""

STALL_RATE: Final = 1024
"""Bytes a second that a peer must let through."""

PREFACE_SECONDS: Final = 10.0
"""How long a peer may take for its preface and its first SETTINGS, from when it is known to speak HTTP/2: by
ALPN, or by the preface itself (`front`).
"""

BLOCK_SECONDS: Final = 10.0
"""How long a header block may take, from its HEADERS to its last CONTINUATION."""

FRAME_SECONDS: Final = 30.0
"""How long a frame may take, from its first byte to its last."""

REQUEST_SECONDS: Final = 60.0
"""How long a request may take, from its HEADERS, and a message of a stream, from its first byte, to become
complete or to have come on at `REQUEST_RATE`; then again so long. A stream without a byte of a message is not
timed: clients open it before they have something to say.
"""

REQUEST_RATE: Final = 1024
"""Bytes a second of a request or message that is not complete, over each `REQUEST_SECONDS`."""

LOOK_SECONDS: Final = 5.0
"""How often requests that took too long are looked for, on a connection that has any."""

STREAM_COST: Final = 512
"""Bytes that an open stream takes by itself: 380 for each of 800,000 calls, and more for what is larger."""

STREAMS_OVER: Final = 1_024
"""Open streams of one connection beyond which it gets no new ones once the memory for all connections is
spent: they stay charged however fast the client reads, so that making it wait would help nobody.
"""

UNFINISHED: Final = 2_048
"""Requests of one connection that are begun and not complete, or of which no message has come: 1 MiB. Clients
send a request whole, or in few pieces.
"""

HELD_LIMIT: Final = 32 * 1024 * 1024
"""Bytes of one connection that belong to requests, or messages, of which the rest has not come."""

HELD_OVER: Final = 2 * 1024 * 1024
"""The same once the memory for all connections is spent: one message."""

IDLE_FRAMES: Final = 500
"""Frames that carry nothing (SETTINGS, PRIORITY, empty DATA, unknown types, resets of what is closed) a
client may send in one go; a hundred more for every second that passes.
"""

EARLY_RESETS: Final = 500
"""Streams reset within a second of being opened, or for a fault of the client, that a connection may have in
one go (CVE-2023-44487); a hundred more for every second that passes.
"""

PER_SECOND: Final = 100
"""How many more of both for every second that passes."""

PING_SECONDS: Final = 5.0
"""Pings of a client on a connection with open streams must be this far apart, as etcd asks."""

IDLE_PING_SECONDS: Final = 2 * 3600.0
"""And this far on a connection without."""

PING_STRIKES: Final = 2
"""Pings sooner than that, between two answers of ours, which are forgiven."""

FORGIVEN: Final = -1
"""Strikes after an answer: who was just told something may well ask whether that is all."""

PROBE_SECONDS: Final = 2 * 3600.0
"""A connection on which nothing was heard for so long is asked whether it is still there."""

PROBE_ANSWER_SECONDS: Final = 20.0
"""And is cut when it does not say so in this time."""

SLICE: Final = 1_000
"""Units of work that a connection may cause in one turn; the rest of what was read waits for the next. A unit
is about a microsecond of one core of 2020.
"""

WORK_RATE: Final = 500_000
"""Units a second that a connection may cause for long. A busy client needs 17 for each request, 21 where they
have a time limit that varies, so this is more of them than a core answers.
"""

WORK_BURST: Final = 500_000
"""Units that a connection may cause ahead of that rate."""

SHORT_SLICE: Final = 250
"""What a turn has once all connections have caused `ROUND` in a round: a few requests, or a frame that takes
more. So a round stays short however many ask for much, and who asks for little notices nothing.
"""

ROUND: Final = 3_000
"""Units of work of one round, at 3 ms, from which turns are short."""

DEPARTED_AT_ONCE: Final = 64
"""Streams of connections that are gone which are freed, and told so, in one round; a watch takes 10 us to
forget.
"""

PAUSES: Final = 10
"""How often a connection may be found beyond its rate, and not read until it is within it again, before it is
closed; one more for every minute that passes.
"""

HANDLED: Final = 10
"""Units for handing over one request or message. Handlers are charged no more, so whatever one does at once
has to be bounded by what its message holds, and not by what the member or the connection does.
"""

STREAMS_PER_UNIT: Final = 8
"""Streams looked at in a loop that count as one unit."""
