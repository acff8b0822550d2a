"""`netstorectl archive`, and what restores and shows the past from the archive of a real store."""

from __future__ import annotations

import time
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from netstore.disk.archivefile import ArchiveWriter
from netstore.node import pointintime
from netstore.proto import rpc_pb2 as pb
from tests.node.test_pointintime import CLUSTER, ENTRIES, STORE, compacting, copied
from tests.support.archives import shown, wait_until_archived
from tests.support.daemon import start_netstored
from tests.support.patience import seconds
from tests.support.v3client import V3Client

if TYPE_CHECKING:
    from pathlib import Path

    from netstore.node.pointintime import Reached
    from tests.cli.commands.conftest import Run

NUMBER = 30


class Kept(NamedTuple):
    """An archive, and what was in the store when it had each revision: the v3 keys, and a v2 key."""

    folder: Path
    record: dict[int, tuple[dict[str, str], str]]
    times: dict[int, int]
    """Between two writes: nanoseconds since 1970, by the revision then."""


def pairs(client: V3Client) -> dict[str, str]:
    answer = client.kv.Range(pb.RangeRequest(key=b"\0", range_end=b"\0"))
    return {each.key.decode(): each.value.decode() for each in answer.kvs}


def v2_value(url: str) -> str:
    value: str = httpx.get(f"{url}/v2/keys/tree", trust_env=False, timeout=seconds(20)).json()["node"][
        "value"
    ]
    return value


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A store with a history, half of which it has compacted; it was killed in the middle, and is gone."""
    folder = tmp_path_factory.mktemp("archive") / "folder"
    flags = ("--archive-folder", str(folder), "--archive-lag-seconds", "1", "--snapshot-count", "10")
    kept = Kept(folder, {}, {})
    with start_netstored(tmp_path_factory.mktemp("store"), *flags) as daemon:
        for number in range(NUMBER):
            if number == NUMBER // 2:
                wait_until_archived(daemon)
                daemon.kill()
                daemon.start_again()
            with closing(V3Client(daemon.url)) as client:
                key = b"/k/%d" % (number % 7)
                if number % 5 == 4:
                    revision = client.kv.DeleteRange(pb.DeleteRangeRequest(key=key)).header.revision
                else:
                    request = pb.PutRequest(key=key, value=b"v%d" % number)
                    revision = client.kv.Put(request).header.revision
                body = {"value": f"t{number}"}
                httpx.put(
                    f"{daemon.url}/v2/keys/tree", data=body, trust_env=False, timeout=seconds(20)
                ).raise_for_status()
                kept.times[revision] = time.time_ns()
                kept.record[revision] = pairs(client), v2_value(daemon.url)
        with closing(V3Client(daemon.url)) as client:
            client.kv.Compact(pb.CompactionRequest(revision=NUMBER, physical=True))
        wait_until_archived(daemon)
    return kept


def test_what_an_archive_holds(run: Run, kept: Kept, tmp_path: Path) -> None:
    told = run("archive", "ls", str(kept.folder))
    assert told.status == 0, told.err
    kinds = [row[0] for row in told.rows]
    assert kinds.count("entries") == 1
    assert "state" in kinds
    (row,) = [row for row in told.rows if row[0] == "entries"]
    assert int(row[2]) > 2 * NUMBER
    assert row[3].startswith("20")
    document = run("archive", "ls", str(kept.folder), "-o", "json").document
    assert {each["what"] for each in document["parts"]} == {"entries", "state"}
    (entries,) = [each for each in document["parts"] if each["what"] == "entries"]
    reached = []
    for moment in (entries["from"], entries["to"], "2999-01-01T00:00:00Z"):
        words = ("archive", "extract", str(kept.folder), str(tmp_path / moment), "--to-time", moment)
        reached.append(run(*words, "-o", "json").document["index"])
    assert reached[0] < reached[1] == reached[2], "a time that is shown leads to its entry"
    told = run("archive", "ls", str(kept.folder / "none"))
    assert (told.status, "name the folder of an archive" in told.err) == (1, True)


def test_a_store_restored_to_a_point(run: Run, kept: Kept, tmp_path: Path) -> None:
    ways = list(kept.record)
    for word, revision in (("--to-revision", ways[11]), ("--to-time", ways[20])):
        where = tmp_path / word.strip("-")
        where.mkdir()
        point = str(revision) if word == "--to-revision" else shown(kept.times[revision])
        told = run(
            *("snapshot", "restore", "--archive", str(kept.folder), word, point),
            *("--data-dir", str(where / "data"), "-o", "json"),
        )
        assert told.status == 0, told.err
        assert told.document["revision"] == revision
        assert told.document["archiveIndex"] > revision
        assert told.document["archiveTime"].startswith("20")
        assert "the archive ends" not in told.err
        assert [path.name for path in where.iterdir()] == ["data"]
        with start_netstored(where, data_dir=where / "data") as daemon:
            with closing(V3Client(daemon.url)) as client:
                assert pairs(client) == kept.record[revision][0]
            # The v2 key is written after the v3 key of its round: a revision comes before that.
            wanted = ways[10] if word == "--to-revision" else revision
            assert v2_value(daemon.url) == kept.record[wanted][1]


def test_a_store_of_one_member_is_another_each_time_it_is_restored_to_a_point(
    run: Run, kept: Kept, tmp_path: Path
) -> None:
    words = ("snapshot", "restore", "--archive", str(kept.folder), "--to-revision", str(list(kept.record)[5]))
    for more in ((), ("--initial-cluster-token", "the same")):
        folders = (tmp_path / f"{number}{len(more)}" for number in range(2))
        one, other = (run(*words, *more, "--data-dir", str(each), "-o", "json").document for each in folders)
        assert one["archiveIndex"] == other["archiveIndex"]
        assert one["cluster"] != other["cluster"]
        assert one["member"] != other["member"]


def test_a_time_after_the_end_of_the_archive_is_told(run: Run, kept: Kept, tmp_path: Path) -> None:
    told = run(
        *("snapshot", "restore", "--archive", str(kept.folder), "--to-time", shown(time.time_ns())),
        *("--data-dir", str(tmp_path / "data")),
    )
    assert told.status == 0, told.err
    assert "the archive ends with entry" in told.err
    assert told.rows[0][-2].isdigit()


def test_a_point_that_the_archive_does_not_have_is_not_found(run: Run, kept: Kept, tmp_path: Path) -> None:
    for point, problem in (
        (("--to-revision", str(2**60)), f"the archive ends with revision {max(kept.record)}, before {2**60}"),
        (("--to-index", str(2**60)), f", before {2**60}"),
        (("--to-time", "1999-01-01T00:00:00Z"), "the archive has nothing as old as this time"),
    ):
        for words in (
            ("archive", "extract", str(kept.folder), str(tmp_path / "file")),
            ("snapshot", "restore", "--archive", str(kept.folder), "--data-dir", str(tmp_path / "data")),
        ):
            told = run(*words, *point)
            assert (told.status, told.out, problem in told.err) == (3, "", True), told.err
    assert not list(tmp_path.iterdir())


def test_a_backup_of_a_point(run: Run, kept: Kept, tmp_path: Path) -> None:
    revision = list(kept.record)[8]
    file = tmp_path / "backup"
    words = ("archive", "extract", str(kept.folder), str(file), "--to-revision", str(revision))
    document = run(*words, "-o", "json").document
    assert (document["revision"], document["file"]) == (revision, str(file))
    status = run("snapshot", "verify", str(file), "-o", "json").document
    assert (status["revision"], status["sha256"]) == (revision, document["sha256"])
    told = run(*words)
    assert (told.status, "exists; name a new file" in told.err) == (1, True)
    later = list(kept.record)[12]
    (tmp_path / "link").symlink_to("none")
    told = run("archive", "extract", str(kept.folder), str(tmp_path / "link"), "--to-revision", str(revision))
    assert (told.status, "link: exists; name a new file" in told.err) == (1, True)
    assert (tmp_path / "link").is_symlink()
    words = ("archive", "extract", str(kept.folder), str(tmp_path / "later"), "--base", str(file))
    document = run(*words, "--to-revision", str(later), "-o", "json").document
    assert (document["revision"], document["base"]) == (later, status["index"])


def test_a_file_that_appears_while_a_backup_of_a_point_is_made_stays(
    run: Run, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "backup"
    making = pointintime.extract

    def slow(*words: Any, **more: Any) -> Reached:
        file.write_bytes(b"of another command")
        return making(*words, **more)

    monkeypatch.setattr(pointintime, "extract", slow)
    told = run("archive", "extract", str(kept.folder), str(file), "--to-revision", str(list(kept.record)[8]))
    assert (told.status, told.out) == (1, "")
    assert told.err.endswith(f"{file}: File exists; name a new one\n")
    assert file.read_bytes() == b"of another command"
    assert list(tmp_path.iterdir()) == [file]


def test_the_history_of_a_key_beyond_compaction(run: Run, kept: Kept) -> None:
    told = run("history", "/k/1", "--archive", str(kept.folder), "--values", "-o", "json")
    assert told.status == 0, told.err
    states = told.document["states"]
    wanted = [number for number in range(NUMBER) if number % 7 == 1]
    assert [each["value"] for each in states] == [None if n % 5 == 4 else f"v{n}" for n in wanted]
    assert {each["author"] for each in states} == {"127.0.0.1"}
    assert all(each["time"] for each in states)
    told = run("history", "/none", "--archive", str(kept.folder))
    assert (told.status, "the archive goes back no further" in told.err) == (3, True)


def test_a_history_from_an_archive_that_was_begun_later_says_from_when_on_it_is_whole(
    run: Run, tmp_path: Path
) -> None:
    made, compacted, last = compacting(tmp_path / "made", ENTRIES[:200])
    words = ("history", "/3", "--archive", str(tmp_path / "archive"))
    writer = ArchiveWriter.open(tmp_path / "archive", CLUSTER, STORE)
    writer.add_base(partial(copied, made, 200))
    told = run(*words, "-o", "json")
    assert (told.document["since"], told.document["to"]) == (compacted, last), "before its first entries"
    writer.add(ENTRIES[200:])
    writer.close()
    told = run(*words, "-o", "json")
    assert (told.document["since"], told.document["to"] > last) == (compacted, True)
    reach = f"the archive has all changes after revision {compacted}"
    told = run(*words, "-o", "table")
    assert (told.status, f"{reach}; what is not shown of before is not known" in told.err) == (0, True)
    told = run(*words, "-o", "table", "--limit", "1")
    assert (told.status, "older states are not shown" in told.err, reach in told.err) == (0, True, False)
    told = run("history", "/none", "--archive", str(tmp_path / "archive"))
    assert (told.status, f"/none: nothing is known of it; {reach}" in told.err) == (3, True)


def test_usage(run: Run, kept: Kept, tmp_path: Path) -> None:
    restore = ("snapshot", "restore", "--data-dir", str(tmp_path / "data"))
    for words, text in (
        ((*restore, "--archive", str(kept.folder)), "give one of --to-revision"),
        ((*restore, "--to-revision", "5"), "need --archive"),
        (restore, "give FILE, or --archive"),
        (("archive", "extract", str(kept.folder), str(tmp_path / "x")), "give one of --to-revision"),
    ):
        told = run(*words)
        assert (told.status, text in told.err) == (2, True), told.err
    told = run(*restore, "--archive", str(kept.folder), "--to-revision", "99999")
    assert (told.status, "before 99999" in told.err) == (3, True), told.err
    assert list(tmp_path.iterdir()) == []
