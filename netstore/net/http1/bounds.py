"""Limits of an HTTP/1 connection and their reasons; those of all protocols are in `exchange`."""

from __future__ import annotations

from typing import Final

HEAD_LIMIT: Final = 64 * 1024
"""Bytes of request line and header lines together, with the empty line that ends them; of a trailer too. A
key path may be long; a head of this size is still read in one piece.
"""

BODY_LIMIT: Final = 10 * 1024 * 1024
"""Bytes of a body: the form limit of the v2 API (limits)."""

PIPELINE_LIMIT: Final = 128
"""Unanswered requests of one connection beyond which nothing more is read from it."""

TURN_LIMIT: Final = 32
"""Requests of one connection that are handled in one turn, of about 30 us each."""

HURRIED_LIMIT: Final = 8
"""The same in a turn that is to be short (`Output.short_turn`)."""

READ_AHEAD_LIMIT: Final = 64 * 1024
"""Bytes read behind a request whose response is streaming. Reading goes on that far because it is how a
disconnect is noticed.
"""

HEAD_SECONDS: Final = 20.0
"""Time limit for a head, from its first byte."""

BODY_SECONDS: Final = 30.0
BODY_RATE: Final = 1024
"""Least bytes a second of a body, on average over each `BODY_SECONDS`."""

REFUSED_DROP: Final = 64 * 1024
"""Bytes read and dropped behind a refused request, so that the error response reaches a client that is still
sending. More is not read: what follows may be a head or a trailer without end.
"""

UNCHARGED: Final = 4096
"""Bytes held by one connection up to which nothing is charged: charging them would cost more than it
gains.
"""

EXCHANGE_BYTES: Final = 512
"""Bytes charged for an unanswered request, beside its body."""
