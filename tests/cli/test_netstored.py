"""The command line of netstored: exit codes, one line for the operator, nothing loaded that is not needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest
import structlog
import trio

from netstore import __version__
from netstore.cli.agent import main as agent
from netstore.cli.netstored import main
from netstore.disk.archivefile import ArchiveWriter
from netstore.disk.datadir import DataDir, MemberIdentity
from netstore.errors import CorruptData, NetstoreError, NoRestart
from netstore.server import daemon
from netstore.types import ClusterId, NodeId
from tests.support.daemon import start_netstored
from tests.support.patience import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from netstore.ops.store import StoreConfig


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No file, no variable of the machine, and logging as it was."""
    for name in ("NETSTORE_CONFIG_FILE", "STATE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETSTORE_DATA_DIR", str(tmp_path / "data"))
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def serving(monkeypatch: pytest.MonkeyPatch, fault: BaseException | None = None) -> list[StoreConfig]:
    """Put a server in place that notes its configuration and ends at once."""
    seen: list[StoreConfig] = []

    async def serve(config: StoreConfig) -> None:
        seen.append(config)
        if fault is not None:
            raise fault

    monkeypatch.setattr(daemon, "serve", serve)
    return seen


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"netstored {__version__}\n"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-h"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Usage: netstored [flags]\n")
    assert "\n  -h, --help\n" in out


def test_check_config_prints_values_sources_and_notices(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCD_NAME", "infra0")
    assert main(["--check-config", "--logger=zap"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("[store]\n")
    assert 'name = "infra0"' in out
    assert "# environment ETCD_NAME" in out
    assert out.endswith("# --logger has no effect: the shape of log lines is set by --log-format\n")


@pytest.mark.parametrize("program", [main, agent], ids=["netstored", "netstore-agent"])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--json"], "--json is for --version"),
        (["--json", "--check-config"], "--json is for --version"),
        (["--version", "--check-config"], "give one of the two"),
    ],
)
def test_words_that_ask_for_nothing_together_start_nothing(
    program: Callable[[list[str]], int],
    words: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trio, "run", lambda *_: None)  # what it would start, does not run
    assert program(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err


def test_settings_are_not_checked_in_place_of_work_on_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--inspect-log"], ["--skip-entry", "7", "--confirm", "00"]):
        assert main([*words, "--check-config"]) == 2
        assert "leave it out to work on the log" in capsys.readouterr().err


@pytest.mark.parametrize("check", [["--check-config"], []])
def test_bad_configuration_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], check: list[str]
) -> None:
    assert main([*check, "--election-timeout=1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "netstored: election_timeout (flag --election-timeout): 1 is out of range; "
        "give a whole number of milliseconds from 5 to 50000\n"
    )


def test_an_export_of_spans_that_cannot_be_done_is_found_by_the_check(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert main(["--check-config"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("netstored: OTEL_EXPORTER_OTLP_PROTOCOL: 'grpc' is not spoken here: write http/")


@pytest.mark.parametrize("check", [["--check-config"], []])
@pytest.mark.parametrize("flag", ["peer-trusted-ca-file", "peer-cert-file", "join-token-file"])
def test_a_file_that_cannot_be_read_is_exit_2_and_named_by_its_setting(
    capsys: pytest.CaptureFixture[str], check: list[str], flag: str, tmp_path: Path
) -> None:
    (there := tmp_path / "there.pem").touch()
    files = {
        "peer-cert-file": there,
        "peer-key-file": there,
        "peer-trusted-ca-file": there,
        flag: tmp_path / "none",
    }
    assert main([*check, *(f"--{name}={path}" for name, path in files.items())]) == 2
    err = capsys.readouterr().err
    key = flag.replace("-", "_")
    assert err.startswith(f"netstored: {key} (flag --{flag}): {tmp_path}/none: No such file or directory; ")


def test_the_log_is_listed_without_the_files_of_a_running_member(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["--cert-file=/none", "--key-file=/none", "--inspect-log"]) == 1
    assert f"{tmp_path}/data: is no data folder" in capsys.readouterr().err


def test_an_agent_without_its_file_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    for check in ["--check-config"], []:
        assert agent([*check, "--etcd-cafile=/none"]) == 2
        err = capsys.readouterr().err
        assert err.startswith("netstore-agent: ca_file (flag --etcd-cafile): /none: No such file")


def test_the_words_of_the_process_are_the_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["netstored", "--nmae=x"])
    assert main() == 2
    assert "did you mean --name?" in capsys.readouterr().err


def test_a_run_that_was_stopped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    seen = serving(monkeypatch)
    assert main(["--name=a", "--log-format=json", "--pre-vote"]) == 0
    assert [config.name for config in seen] == ["a"]
    err = capsys.readouterr().err
    assert '"event": "setting_warning"' in err
    assert '"event": "member_starting"' in err
    assert str(seen[0].data_dir) in err


@pytest.mark.parametrize(
    "fault",
    [
        NetstoreError("port taken\nby another"),
        BaseExceptionGroup("", [NetstoreError("port taken by another")]),
        ExceptionGroup("", [ExceptionGroup("", [CorruptData("port taken by another")])]),
    ],
)
def test_a_fault_for_the_operator_is_one_line_and_exit_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: BaseException
) -> None:
    serving(monkeypatch, fault)
    assert main(["--log-level=fatal"]) == 1
    assert capsys.readouterr().err == "netstored: port taken by another\n"


def test_what_another_start_would_not_change_is_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serving(monkeypatch, ExceptionGroup("", [NoRestart("this member was removed")]))
    assert main(["--log-level=fatal"]) == 2
    assert capsys.readouterr().err == "netstored: this member was removed\n"


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, ExceptionGroup("", [NetstoreError("x"), ZeroDivisionError()]))
    with pytest.raises(ExceptionGroup):
        main(["--log-level=fatal"])


def test_an_interrupt_ends_with_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    serving(monkeypatch, KeyboardInterrupt())
    assert main(["--log-level=fatal"]) == 1


@pytest.mark.parametrize("start", [main, agent])
def test_an_interrupt_while_settings_are_read_ends_with_exit_1(
    monkeypatch: pytest.MonkeyPatch, start: Callable[[Sequence[str]], int]
) -> None:
    def interrupted(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("netstore.ops.layers.Layered.load", interrupted)
    assert start(["--check-config"]) == 1


@pytest.mark.parametrize("program", ["netstored", "agent"])
@pytest.mark.parametrize("task", ["--help", "--version", "--check-config"])
def test_output_that_nobody_takes_is_no_traceback(program: str, task: str) -> None:
    assert unread(program, task) == (1, "")
    name = "netstore-agent" if program == "agent" else program
    full = f"{name}: standard output: No space left on device: write to another file or disk\n"
    assert on_full_disk(program, task) == (1, full)


def test_a_listed_log_that_nobody_takes_is_no_traceback(tmp_path: Path) -> None:
    with start_netstored(tmp_path) as daemon:
        assert daemon.stop() == 0
        words = ("--data-dir", str(daemon.data_dir), "--inspect-log")
        assert unread("netstored", *words) == (1, "")
        code, err = on_full_disk("netstored", *words)
        assert code == 1
        assert err.startswith("netstored: standard output: No space left on device: ")


def unread(program: str, *words: str) -> tuple[int, str]:
    """Exit code and errors of a program whose output goes into a pipe without a reader."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return _ended(writer, program, *words)
    finally:
        os.close(writer)


def on_full_disk(program: str, *words: str) -> tuple[int, str]:
    with Path("/dev/full").open("w") as full:
        return _ended(full.fileno(), program, *words)


def _ended(output: int, program: str, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", f"netstore.cli.{program}", *words],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=seconds(60),
    )
    return done.returncode, done.stderr


def test_check_config_loads_neither_trio_nor_the_server() -> None:
    code = (
        "import sys; from netstore.cli.netstored import main; code = main(['--check-config']); "
        "heavy = {'trio', 'structlog', 'click', 'rich', 'netstore.server'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


def test_check_config_tells_which_settings_a_start_lowers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check-config", "--max-txn-ops=100000"]) == 0
    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# max_txn_ops: ")]
    assert told.startswith("# max_txn_ops: 100000 is lowered to 65536: ")
    assert main(["--check-config"]) == 0
    assert " is lowered to " not in capsys.readouterr().out


def test_check_config_tells_what_is_wrong_with_the_folders_of_archive_and_backups(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, archive, backups = (tmp_path / name for name in ("data", "archive", "backups"))
    backups.mkdir()
    flags = [f"--data-dir={path}", f"--archive-folder={archive}", f"--backup-folder={backups}"]

    def told() -> str:
        assert main([*flags, "--check-config"]) == 0
        lines = capsys.readouterr().out.splitlines()
        return "\n".join(
            line for line in lines if line.startswith(("# archive_folder: ", "# backup_folder: "))
        )

    def archive_of(cluster: int, store: str) -> None:
        ArchiveWriter.open(archive, ClusterId(cluster), store).close()

    assert not told()
    archive_of(0xC1, "5a")
    assert f"of cluster c1, and {path} has archived nothing yet" in told(), "a new data folder"
    data = DataDir.lock(path)
    data.adopt(MemberIdentity(ClusterId(0xC1), NodeId(1), "one"))
    assert f"of cluster c1, and {path} has archived nothing yet" in told(), "a restored one"
    own = data.instance()
    assert "has the archive of another store: name an empty folder; if this member took the place" in told()
    (archive / "identity").unlink()
    assert not told()
    archive_of(0xC2, own)
    assert "is the archive of cluster c2, not of c1" in told()
    (archive / "identity").unlink()
    archive_of(0xC1, own)
    data.note_archive_folder(archive)
    assert not told()
    archive.rename(tmp_path / "away")
    assert "the archive that this member wrote there is gone: mount or move it back" in told()
    (path / "archive-place").write_bytes(b"?")
    assert f"# archive_folder: {path / 'archive-place'}: damaged" in told()
    (path / "archive-place").unlink()
    (backups / "member" / "snap").mkdir(parents=True)  # as `etcdctl backup` leaves one there
    assert not told(), "no file of a backup has the name of another"
    (backups / "member" / "snap").rmdir()
    (backups / "member").rmdir()
    backups.rmdir()
    assert told().startswith("# backup_folder: ")
    data.close()


@pytest.mark.parametrize(
    ("made", "mode", "words"),
    [
        ("member/wal", 0o700, "has the data of an etcd (the folder member); nothing was changed"),
        ("photos", 0o700, "no member's folder, but it has 'photos'"),
        ("wal", 0o755, "mode 0755 lets other users in"),
    ],
)
def test_check_config_refuses_a_data_folder_that_a_start_refuses(
    made: str, mode: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    (data / made).mkdir(parents=True)
    data.chmod(mode)
    with pytest.raises(NetstoreError) as refused:
        DataDir.lock(data)
    assert main([f"--data-dir={data}", "--check-config"]) == 1
    told = capsys.readouterr()
    assert not told.out
    assert told.err == f"netstored: {refused.value}\n"
    assert words in told.err


def test_check_config_changes_no_data_folder_and_takes_one_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    check = [f"--data-dir={data}", "--check-config"]
    assert main(check) == 0
    assert not data.exists()
    data.mkdir(mode=0o755)
    assert main(check) == 0
    assert data.stat().st_mode & 0o777 == 0o755
    locked = DataDir.lock(data)
    locked.adopt(MemberIdentity(ClusterId(0xC1), NodeId(1), "one"))
    assert main(check) == 0
    locked.close()
    (data / "wal" / "identity").unlink()
    assert main(check) == 1
    assert "not the log folder of member 1" in capsys.readouterr().err
