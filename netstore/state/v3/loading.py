"""Building the index of the v3 keys from the records in the engine, in bounded steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstore.codec import Malformed
from netstore.parted import batches
from netstore.state.v3 import keyvalue
from netstore.state.v3.index import DELETED, NUMBER_BITS, PLACE_BYTES, Item, remember
from netstore.state.v3.records import corrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from netstore.state.v3.index import KeyIndex
    from netstore.state.v3.records import Records
    from netstore.types import Revision


def read(  # noqa: PLR0917 - the target, the source, and the bounds of a step
    index: KeyIndex,
    records: Records,
    revision: Revision,
    swept: Revision,
    step: int,
    step_bytes: int,
    *,
    whole: bool,
) -> Iterator[tuple[int, bool]]:
    """Fill an empty index from the records, but for the sorted lists of keys (`sort`). Yields after each step
    of about so many records or bytes the number read so far, and whether that was all. With `whole` the
    records are read by one scan, which also verifies their checksum.

    O(records), 5 us each. StateDamaged if they cannot be read.
    """
    start = b""
    last = found = 0
    is_all = False
    scan = records.scan(start)
    try:
        while not is_all:
            count, stored, is_all = _take(index, records, scan, swept, step, step_bytes)
            if count:
                found += count
                last = int.from_bytes(stored, "big")
                start = stored + b"\0"
            if is_all or whole:
                yield found, is_all
            else:
                scan.close()
                yield found, is_all
                scan = records.scan(start)
    finally:
        scan.close()
    lacking = records.lacking(found)
    if lacking:
        raise corrupt(last.to_bytes(PLACE_BYTES, "big"), lacking)
    if last >> NUMBER_BITS > revision:
        raise corrupt(last.to_bytes(PLACE_BYTES, "big"), f"the state is at revision {revision}")


def sort(
    index: KeyIndex, move_lease: Callable[[bytes, int, int], None], step: int, *, whole: bool
) -> Iterator[None]:
    """Fill the sorted lists of keys, and attach keys to their leases, in steps of so many keys."""
    # All keys at once are sorted once; in steps each is inserted, which takes longer.
    for some in batches(index.items.values(), len(index.items) if whole else step):
        index.live.update([item.key for item in some if item.version])
        index.dead.update([item.key for item in some if not item.version])
        for item in some:
            if item.lease:
                move_lease(item.key, 0, item.lease)
        yield


def _take(  # noqa: PLR0917 - as for `read`
    index: KeyIndex,
    records: Records,
    scan: Iterator[tuple[bytes, bytes]],
    swept: Revision,
    step: int,
    step_bytes: int,
) -> tuple[int, bytes, bool]:
    """Read one step: the number of records, the engine's key of the last, and whether that was all."""
    items, log = index.items, index.log
    fields = keyvalue.decode_fields
    stored, count, size, is_all = b"", 0, 0, True
    for stored, record in scan:
        place = int.from_bytes(stored, "big")
        try:
            key, created, modified, version, lease, _, _ = fields(record)
        except Malformed as error:
            raise corrupt(stored, str(error)) from None
        deleted = place & DELETED
        if modified != place >> NUMBER_BITS or (version == 0) != deleted:
            raise corrupt(stored, f"it says revision {modified}, version {version}")
        length = len(record)
        item = items.get(key)
        if item is None:
            items[key] = item = Item(key, place, length, created, version, lease)
        else:
            remember(item)
            item.at = place
            item.size = length
            item.created = created
            item.version = version
            item.lease = lease
        if deleted:
            index.newest_deletion = place
        if modified >= swept:
            log.add(place, item.key)
        count += 1
        size += length
        if count >= step or size >= step_bytes:
            is_all = False
            break
    records.size += PLACE_BYTES * count + size
    return count, stored, is_all
