"""What must hold whatever the input. Breaking it is a fault of this program, and the member stops before it
answers anyone."""

from __future__ import annotations

from netstore.errors import MustStop, NetstoreError


class InvariantBroken(NetstoreError, MustStop):  # noqa: N818 - named for what was found
    """A property the protocol rests on does not hold; the text says which. Never caught inside the core.

    It stands where other programs write `assert`, because it must also fire under `python -O`. After it the
    core's state is undefined: the host ends the process without sending or writing anything more.
    """
