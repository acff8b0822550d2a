"""Torn write or damage: exhaustively, on logs small enough to try everything.

`Story` keeps what was promised: a log may lose only what nobody was told is safe, and must never show
anything else.
"""

from __future__ import annotations

import errno
from itertools import product
from typing import TYPE_CHECKING

import pytest

from netstore.disk.diagnose import Opening, Refuse, Segment, diagnose, segment_name
from netstore.disk.frame import (
    FRAGMENT,
    HEAD_BYTES,
    SECTOR,
    Frame,
    Identity,
    Kind,
    Place,
    encode_record,
    read_frame,
)
from netstore.disk.wal import Replay, Wal
from netstore.errors import CorruptData, NetstoreError
from netstore.raft.entry import Entry, EntryKind, HardState
from netstore.types import Index, NodeId, Term
from tests.disk.platter import Platter

if TYPE_CHECKING:
    from collections.abc import Iterator

IDENTITY = Identity(0xC1, 0xA1)
SIZE = 8192


class Story:
    """A log that is written, and how many entries were written and acknowledged after each batch."""

    def __init__(self, segment_bytes: int = SIZE, size: int = SIZE) -> None:
        self.platter = Platter(size=size)
        self.wal, _ = Wal.open(self.platter, IDENTITY, segment_bytes)
        self.entries: list[Entry] = []
        self.acknowledged = 0
        self.steps = [0]

    def append(self, *payloads: bytes) -> None:
        start = len(self.entries) + 1
        batch = [
            Entry(Index(start + place), Term(1), EntryKind.NORMAL, data)
            for place, data in enumerate(payloads)
        ]
        self.entries += batch
        count = len(self.entries)
        self.steps.append(count)

        def done(error: OSError | None) -> None:
            assert error is None
            self.acknowledged = count

        self.wal.append(HardState(Term(1), NodeId(0xA1), Index(start)), batch, done)

    def turn(self, count: int | None = None) -> None:
        self.platter.turn(count)

    def check(self, replay: Replay) -> int:
        """How many entries can be read. All that were acknowledged must be, and none that was not written."""
        count = len(replay.entries)
        assert replay.entries == self.entries[:count]
        assert count >= self.acknowledged
        assert count in self.steps
        return count


def opened(disk: dict[str, bytes]) -> Replay:
    return Wal.open(Platter(disk, SIZE), IDENTITY, SIZE)[1]


def flips(data: bytes, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Each file with one bit flipped, for all bits between two offsets."""
    image = bytearray(data)
    for place in range(start, end):
        for bit in range(8):
            image[place] ^= 1 << bit
            yield place, bytes(image)
            image[place] ^= 1 << bit


def written(data: bytes) -> int:
    return len(data.rstrip(b"\0"))


@pytest.fixture
def stopped() -> Story:
    """Two segments of a log that was closed. Values have zeros at the ends of sectors."""
    story = Story(segment_bytes=900)
    story.append(b"one", b"")
    story.append(bytes(300))
    story.turn()
    story.append(b"three" + bytes(250))
    story.append(bytes(40), b"\1" * 20)
    story.turn()
    story.wal.close()
    assert len(story.platter.disk) == 2
    return story


def test_one_flipped_bit_in_a_stopped_log_is_refused_or_harmless(stopped: Story) -> None:
    refused = harmless = 0
    for name, data in stopped.platter.disk.items():
        for _, image in flips(data, 0, written(data) + SECTOR):
            try:
                replay = opened({**stopped.platter.disk, name: image})
            except CorruptData as error:
                refused += name in str(error)
            else:
                assert replay.entries == stopped.entries
                harmless += 1
    # Harmless: in the seal, in the zeros after the end, in the gap before a head.
    assert refused > 2000 * 4
    assert harmless < 1500 * 8


def test_one_flipped_bit_in_the_data_of_a_stopped_log_is_always_refused(stopped: Story) -> None:
    for name, data in stopped.platter.disk.items():
        number = int(name.partition(".")[0], 16)
        place = Place(0, IDENTITY.seed(number))
        while (
            isinstance(frame := read_frame(data, IDENTITY.seed(number), place), Frame)
            and frame.kind != Kind.SEAL
        ):
            first = frame.after.at - HEAD_BYTES - len(frame.payload)
            for at, image in flips(data, first, frame.after.at):
                with pytest.raises(CorruptData) as caught:
                    opened({**stopped.platter.disk, name: image})
                assert name in str(caught.value), at
                assert "offset" in str(caught.value)
            place = frame.after


def test_one_flipped_bit_in_a_killed_log_never_costs_an_acknowledged_entry() -> None:
    story = Story()
    story.append(b"one")
    story.turn()
    story.append(b"two" + bytes(600), b"\x80")
    story.append(bytes(7))
    story.turn()
    data = story.platter.disk[segment_name(0)]
    end = written(data)
    refused = 0
    for _, image in flips(data, 0, end + SECTOR):
        try:
            replay = opened({segment_name(0): image})
        except CorruptData:
            refused += 1
        else:
            assert replay.entries == story.entries
    assert refused >= (end - HEAD_BYTES - SECTOR) * 8


def eight_sectors(story: Story) -> None:
    """A batch over eight sectors, with zeros at the ends of many of them, after one that is synced."""
    story.append(b"safe")
    story.turn()
    story.append(*(bytes([number]) * 90 + bytes(120) for number in range(16)))


def test_every_offset_of_the_last_batch_torn_is_cut() -> None:
    story = Story()
    eight_sectors(story)
    before = story.platter.disk[segment_name(0)]
    job = story.platter.waiting[0]
    assert len(job.data) > 7 * SECTOR
    for count in range(len(job.data)):
        image = before[: job.offset] + job.data[:count] + before[job.offset + count :]
        replay = opened({segment_name(0): image})
        assert replay.entries == story.entries[:1]
        assert (replay.cut is not None) == (written(image) > job.offset)
    assert story.check(opened(story.platter.crashed(1).disk)) == 17


def test_every_subset_of_the_sectors_of_the_last_batch_is_cut() -> None:
    story = Story()
    eight_sectors(story)
    for kept in product((False, True), repeat=8):
        count = story.check(opened(story.platter.crashed(0, kept).disk))
        assert count == (17 if all(kept) else 1)


def test_every_subset_of_the_sectors_of_a_group_of_batches_is_cut() -> None:
    story = Story()
    story.append(b"safe")
    story.turn()
    for size in (700, 5, 900, 1100, 20):
        story.append(bytes(size))
    seen = {
        story.check(opened(story.platter.crashed(0, kept).disk)) for kept in product((False, True), repeat=7)
    }
    assert seen == {1, 3, 4, 6}  # the two small batches end in a sector with their neighbour


@pytest.mark.parametrize("acknowledged", [False, True])
def test_every_subset_of_the_sectors_of_a_new_segment_is_cut(acknowledged: bool) -> None:
    story = Story(segment_bytes=700)
    story.append(b"a" * 600)
    if acknowledged:
        story.turn()
    story.append(bytes(1500), b"z")
    complete = 0 if acknowledged else 1
    for kept in product((False, True), repeat=4):
        story.check(opened(story.platter.crashed(complete, kept).disk))


def test_a_batch_of_many_fragments_is_kept_completely_or_not_at_all() -> None:
    story = Story(segment_bytes=10 * FRAGMENT, size=10 * FRAGMENT)
    story.append(b"safe")
    story.turn()
    story.append(*(bytes(FRAGMENT // 2) for _ in range(5)))
    sectors = -(-len(story.platter.waiting[0].data) // SECTOR) + 1
    for lost in range(0, sectors, 5):
        kept = [number != lost for number in range(sectors)]
        replay = Wal.open(story.platter.crashed(0, kept), IDENTITY, SIZE)[1]
        assert story.check(replay) in {1, 6}
        prefix = [number < lost for number in range(sectors)]
        replay = Wal.open(story.platter.crashed(0, prefix), IDENTITY, SIZE)[1]
        assert story.check(replay) == 1


def test_a_lost_sector_that_was_synced_is_refused() -> None:
    story = Story()
    for size in (700, 700, 700):
        story.append(bytes(size))
        story.turn()
    data = story.platter.disk[segment_name(0)]
    last_head = data.rindex(b"\xb7\xf5")
    for sector in range(last_head // SECTOR):
        start = sector * SECTOR
        image = data[:start] + bytes(SECTOR) + data[start + SECTOR :]
        with pytest.raises(CorruptData, match=r"0000000000000000\.wal at offset"):
            opened({segment_name(0): image})


def test_writing_continues_after_a_cut_and_what_was_cut_stays_away() -> None:
    story = Story()
    eight_sectors(story)
    torn = story.platter.crashed(0, [True, False, True, True, True, True, True, True])
    wal, replay = Wal.open(torn, IDENTITY, SIZE)
    assert replay.cut is not None
    assert (replay.cut.name, replay.cut.why) == (segment_name(0), "the last write never finished")
    assert 0 < replay.cut.lost <= 8 * SECTOR
    wal.append(None, [Entry(Index(2), Term(2), EntryKind.NORMAL, b"new")], lambda error: None)
    torn.turn()
    again = opened(torn.disk)
    assert [entry.data for entry in again.entries] == [b"safe", b"new"]
    assert again.cut is None


def test_segments_that_are_exchanged_missing_or_emptied_are_refused(stopped: Story) -> None:
    first, second = stopped.platter.disk.values()
    names = [segment_name(number) for number in range(3)]
    for disk, why in (
        ({names[0]: second, names[1]: first}, "is not of member a1 of cluster c1"),
        ({names[0]: first, names[2]: second}, "segment 1 before it is missing"),
        ({names[0]: bytes(SIZE), names[1]: second}, "empty, but"),
        ({names[0]: first, names[1]: first}, "written in full, but not"),
        ({names[0]: first[:900], names[1]: second}, ""),
        ({names[1]: second}, "entries 1 to 4 are missing"),
    ):
        if why:
            with pytest.raises(CorruptData, match=why):
                opened(disk)
        else:
            assert opened(disk).entries == stopped.entries


def test_the_log_of_another_member_is_refused(stopped: Story) -> None:
    with pytest.raises(CorruptData, match="is not of member b2 of cluster c1, or damaged"):
        Wal.open(Platter(stopped.platter.disk), Identity(0xC1, 0xB2), SIZE)


def test_a_segment_that_ends_before_the_next_one_says_is_refused() -> None:
    story = Story(segment_bytes=700)
    story.append(b"a" * 400)
    story.turn()
    story.append(b"b" * 100)
    story.turn()
    story.append(b"c" * 600)
    story.turn()
    first, second = story.platter.disk.values()
    shorter = first[: first.index(b"bbb") - 60].ljust(SIZE, b"\0")
    with pytest.raises(CorruptData, match=r"where 0000000000000001\.wal goes on"):
        opened({segment_name(0): shorter, segment_name(1): second})


def test_a_segment_that_grew_after_the_next_one_was_begun_is_refused_for_that() -> None:
    """The next segment was begun before the rest was written: as if a truncation had been lost."""
    stories = [Story(segment_bytes=700), Story(segment_bytes=700)]
    for story, data in zip(stories, (b"b" * 600, b"c" * 10), strict=True):
        story.append(b"a" * 400)
        story.turn()
        story.append(data)
        story.turn()
    second, grown = stories[0].platter.disk[segment_name(1)], stories[1].platter.disk[segment_name(0)]
    with pytest.raises(CorruptData, match=r"ends behind offset \d+, where 0000000000000001\.wal goes on"):
        opened({segment_name(0): grown, segment_name(1): second})


def test_a_segment_with_another_last_record_of_the_same_length_is_refused_for_that() -> None:
    stories = [Story(segment_bytes=700), Story(segment_bytes=700)]
    for story, letter in zip(stories, (b"a", b"b"), strict=True):
        story.append(letter * 400)
        story.turn()
        story.append(b"c" * 600)
        story.turn()
    first, second = stories[0].platter.disk[segment_name(0)], stories[1].platter.disk[segment_name(1)]
    with pytest.raises(CorruptData, match=r"ends with another record than the one after which"):
        opened({segment_name(0): first, segment_name(1): second})


def test_a_torn_segment_before_another_one_is_refused() -> None:
    story = Story(segment_bytes=700)
    story.append(b"a" * 600)
    story.turn()
    story.append(b"c" * 600)
    torn_first = story.platter.disk[segment_name(0)][:512].ljust(SIZE, b"\0")
    torn_second = story.platter.crashed(0, [False, True]).disk[segment_name(1)]
    with pytest.raises(
        CorruptData, match=r"0000000000000000\.wal at offset .*; 0000000000000001\.wal follows"
    ):
        opened({segment_name(0): torn_first, segment_name(1): torn_second})


def test_blank_segments_at_the_end_are_the_clean_end(stopped: Story) -> None:
    disk = {**stopped.platter.disk, segment_name(2): bytes(SIZE), segment_name(3): b""}
    assert opened(disk).entries == stopped.entries
    assert opened({segment_name(0): bytes(SIZE)}) == Replay()
    assert opened({}) == Replay()


@pytest.mark.parametrize("version", [1, 3])
def test_a_log_of_another_format_is_refused_by_name_and_is_not_damaged(version: int) -> None:
    """A member with a damaged log is replaced under another identity; this one must not be."""
    payload = bytes((version,)) + Opening(IDENTITY, 0, Place(0, 0), b"", b"").encode()[1:]
    seed = IDENTITY.seed(0)
    data, _ = encode_record(seed, Place(0, seed), Kind.OPENING, payload, 0)
    disk = {segment_name(0): data}
    platter = Platter(disk)
    with pytest.raises(
        NetstoreError, match=rf"0{{16}}\.wal: written in log format {version}, this version reads 2; nothing"
    ) as refusal:
        Wal.open(platter, IDENTITY)
    assert not isinstance(refusal.value, CorruptData)
    assert platter.disk == disk


def test_an_opening_of_another_segment_is_refused() -> None:
    opening = Opening(IDENTITY, 0, Place(0, 0), b"", b"")
    seed = IDENTITY.seed(0)
    for payload, why in (
        (opening.encode() + b"x", "1 bytes too many"),
        (opening.encode()[:-1], "cut short"),
        (Opening(IDENTITY, 1, Place(0, 0), b"", b"").encode(), "does not begin with its opening"),
    ):
        data, _ = encode_record(seed, Place(0, seed), Kind.OPENING, payload, 0)
        found = diagnose([Segment(segment_name(0), 0, data)], IDENTITY)
        assert isinstance(found.verdict, Refuse)
        assert why in found.verdict.why
    data, _ = encode_record(seed, Place(0, seed), Kind.BATCH, opening.encode(), 0)
    found = diagnose([Segment(segment_name(0), 0, data)], IDENTITY)
    assert isinstance(found.verdict, Refuse)


def test_a_stale_remainder_never_verifies() -> None:
    """The remains of another segment after the end of this one are not taken for records."""
    old = Story()
    for _ in range(6):
        old.append(b"old" * 50)
    old.turn()
    new = Story()
    new.append(b"new")
    new.turn()
    fresh = new.platter.disk[segment_name(0)]
    stale = old.platter.disk[segment_name(0)]
    end = written(fresh)
    moved = {segment_name(0): fresh, segment_name(1): stale}
    with pytest.raises(CorruptData):
        opened(moved)
    mixed = fresh[:end] + stale[end:]
    with pytest.raises(CorruptData):
        opened({segment_name(0): mixed})


def test_a_device_that_cannot_read_is_reported_with_the_file() -> None:
    class Broken(Platter):
        def read(self, name: str) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(CorruptData, match=r"0000000000000000\.wal cannot be read: Input/output error"):
        Wal.open(Broken({segment_name(0): b"x"}), IDENTITY, SIZE)
