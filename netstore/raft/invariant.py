"""What must hold for any input. If it does not, this program is faulty, and the member stops before it sends
an answer."""

from __future__ import annotations

from netstore.errors import MustStop, NetstoreError


class InvariantBroken(NetstoreError, MustStop):  # noqa: N818 - named for what was found
    """An invariant of the protocol does not hold; the text says which. Never caught inside the core.

    Not an `assert`, because it must also be checked under `python -O`. The core's state is undefined then:
    the host ends the process without sending or writing anything more.
    """
