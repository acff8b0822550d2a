"""netstore-cni: the CNI plugin for pods on a netstore or flannel network (CNI specification 1.1, section 2).

The container runtime runs it for each pod with a verb in the environment and the configuration on standard
input. It runs the plugin that it delegates to (`delegate`) with the same environment and that plugin's own
configuration, which is kept from ADD until DEL has succeeded: a pod is taken away as it was attached,
whatever the node's subnet is by then.

A file of a kept configuration has the container's id as its name, in flannel's folder and form, so pods that
flannel's plugin attached are taken away by this one. For any other interface than eth0 the name has the
interface's too, after a character that no id has.

With an argument it is run by a person: `--version`, or `--version --json`.
"""

from __future__ import annotations

if __name__ == "__main__":  # ahead of the imports below, which take a while
    from netstore import entry

    entry.netstore_cni()

import json
import os
import stat
import sys
from typing import Final, NoReturn

from netstore.cni.delegate import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    DEFAULT_DATA_DIR,
    DEFAULT_SUBNET_FILE,
    IO_FAILURE,
    MAX_CONFIG_BYTES,
    NOT_AVAILABLE,
    NOT_JSON,
    SUPPORTED,
    TRY_AGAIN,
    UNKNOWN_CONTAINER,
    CniError,
    Fields,
    NodeNetwork,
    delegate_config,
    parse_config,
    parse_node_network,
    path_setting,
    with_gateways,
)

PROGRAM: Final = "netstore-cni"

MAX_SUBNET_FILE_BYTES: Final = 64 * 1024

STANDARD_OUTPUT: Final = 1
STANDARD_ERROR: Final = 2

WRONG_USAGE: Final = 2
"""Exit status for arguments that are not known."""

_ASIDE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

_FIRST: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_FURTHER: Final = _FIRST | frozenset("_.-")


def main() -> NoReturn:
    """Carry out the verb in CNI_COMMAND and end with the status that the specification asks for."""
    if len(sys.argv) > 1:
        sys.exit(_show_release(sys.argv[1:]))
    version = SUPPORTED[0]
    try:
        text = _read_input()
        verb = os.environ.get("CNI_COMMAND", "")
        if verb == "VERSION":
            _show_versions(text)
            sys.exit(0)
        config = parse_config(text)
        version = config.get("cniVersion", version)
        status = _carry_out(verb, config)
    except CniError as error:
        _print_error(version, error.code, error.message, error.details)
        sys.exit(1)
    except RecursionError:
        _print_error(version, NOT_JSON, "the network configuration is nested too deep", "")
        sys.exit(1)
    except OSError as error:
        _print_error(version, IO_FAILURE, f"{error.filename}: {error.strerror}", "")
        sys.exit(1)
    sys.exit(status)


def _show_release(arguments: list[str]) -> int:
    """Print the version of this program; the exit status."""
    from netstore.release import version_json, version_line  # noqa: PLC0415 - no container runtime asks

    if arguments == ["--version"]:
        _write(STANDARD_OUTPUT, version_line(PROGRAM))
    elif sorted(arguments) == ["--json", "--version"]:
        _write(STANDARD_OUTPUT, version_json(PROGRAM))
    else:
        _write(
            STANDARD_ERROR,
            f"{PROGRAM}: takes no arguments but --version and --version --json; the verb is in CNI_COMMAND,"
            " which a container runtime sets: see netstore-cni(8)",
        )
        return WRONG_USAGE
    return 0


def _read_input() -> bytes:
    text = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise CniError(NOT_JSON, f"the network configuration has more than {MAX_CONFIG_BYTES} bytes")
    return text


def _carry_out(verb: str, config: Fields) -> int:
    if verb == "ADD":
        kept = _kept_file(config)
        node = _node_network(config)
        delegate = delegate_config(config, node)
        program = _find(delegate["type"])  # before anything is kept for it
        if delegate["type"] == "bridge":
            from netstore.cni.bridges import choose_bridge  # noqa: PLC0415 - it costs other verbs 6 ms

            if (bridge := choose_bridge(delegate, node)) is not None:
                delegate["bridge"] = bridge
        _keep(kept, delegate)
        return _run(delegate, program)
    if verb == "DEL":
        return _detach(config)
    if verb == "CHECK":
        found = _read_kept(_kept_file(config))
        if found is None:
            raise CniError(UNKNOWN_CONTAINER, "this container was not attached by this plugin")
        if "prevResult" in config:
            found["prevResult"] = with_gateways(config["prevResult"])
        return _run(found, _find(found["type"]))
    if verb == "STATUS":
        delegate = delegate_config(config, _node_network(config, absent=NOT_AVAILABLE))
        return _run(delegate, _find(delegate["type"]))
    if verb == "GC":
        return _collect(config)
    raise CniError(
        BAD_ENVIRONMENT,
        f"CNI_COMMAND: {verb[:40]!r} is no verb of CNI",
        "a container runtime sets it; to see that the plugin runs, set it to VERSION",
    )


def _detach(config: Fields) -> int:
    """DEL: again and again without harm; what is not known was taken away before."""
    kept = _kept_file(config)
    delegate = _read_kept(kept)
    if delegate is None:
        return 0
    status = _run(delegate, _find(delegate["type"]))
    if status == 0:
        _remove(kept)
    return status


def _collect(config: Fields) -> int:
    """GC: the plugin frees what the attachments of this network that are not valid had; then their kept
    configurations are removed. Those of other networks, and files that are none, stay.
    """
    delegate = delegate_config(config, _node_network(config))
    attachments = config.get("cni.dev/valid-attachments") or []
    delegate["cni.dev/valid-attachments"] = attachments
    try:
        valid = {_kept_name(each["containerID"], each["ifname"]) for each in attachments}
    except (TypeError, KeyError):
        raise CniError(
            BAD_CONFIG,
            "cni.dev/valid-attachments: is no list of attachments",
            'write it as [{"containerID":"...","ifname":"eth0"}]',
        ) from None
    status = _run(delegate, _find(delegate["type"]))
    folder = path_setting(config, "dataDir", DEFAULT_DATA_DIR)
    if status == 0 and os.path.isdir(folder):  # noqa: PTH112 - pathlib costs 5 ms
        for name in os.listdir(folder):  # noqa: PTH208 - as above
            if name not in valid and _is_of(f"{folder}/{name}", config.get("name", "")):
                _remove(f"{folder}/{name}")
    return status


def _is_of(path: str, network: object) -> bool:
    """Whether a file is a configuration that was kept for this network."""
    try:
        kept = _read_kept(path)
    except (CniError, OSError):
        return False
    return kept is not None and kept.get("name") == network


def _show_versions(text: bytes) -> None:
    """VERSION: the answer is in the version that was asked in, also where that is none of ours."""
    try:
        config = json.loads(text) if text.strip() else {}
        asked = config.get("cniVersion", SUPPORTED[0])
    except (ValueError, AttributeError, RecursionError):
        raise CniError(NOT_JSON, "the network configuration is no JSON object") from None
    _print({"cniVersion": asked, "supportedVersions": list(SUPPORTED)})


def _print_error(version: str, code: int, message: str, details: str) -> None:
    error: Fields = {"cniVersion": version, "code": code, "msg": f"{PROGRAM}: {message}"}
    if details:
        error["details"] = details
    _print(error)


def _print(document: Fields) -> None:
    _write(STANDARD_OUTPUT, json.dumps(document))


def _write(file: int, line: str) -> None:
    """Write a line. Where the file is closed or takes no more, the exit status alone tells."""
    rest = memoryview(f"{line}\n".encode())
    try:
        while rest:
            rest = rest[os.write(file, rest) :]
    except OSError:
        sys.exit(1)


def _node_network(config: Fields, absent: int = TRY_AGAIN) -> NodeNetwork:
    path = path_setting(config, "subnetFile", DEFAULT_SUBNET_FILE)
    try:
        text = _read_file(path, MAX_SUBNET_FILE_BYTES)
    except FileNotFoundError:
        raise CniError(
            absent,
            f"{path}: there is no such file",
            "netstore-agent writes it while it holds a subnet; is it running here?",
        ) from None
    return parse_node_network(text.decode("utf-8", "replace"))


def _read_file(path: str, most: int) -> bytes:
    """The first bytes of a file. OSError, or CniError for what is no file: a pipe would be waited for."""
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(path, os.fstat(opened))
        data = b""
        while len(data) < most and (piece := os.read(opened, most - len(data))):
            data += piece
        return data
    finally:
        os.close(opened)


def _check_regular(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise CniError(IO_FAILURE, f"{path}: is no regular file", "remove what is there")


def _kept_file(config: Fields) -> str:
    """The path of the configuration that is kept for this attachment."""
    container, interface = os.environ.get("CNI_CONTAINERID", ""), os.environ.get("CNI_IFNAME", "")
    if not (container and container[0] in _FIRST and set(container) <= _FURTHER and len(container) <= 200):
        raise CniError(
            BAD_ENVIRONMENT,
            f"CNI_CONTAINERID: {container[:40]!r} is no container's id",
            "letters, digits, and _ . - after the first",
        )
    if (
        not 0 < len(interface) <= 15
        or interface in (".", "..")
        or any(character in "/:" or character.isspace() or character == "\0" for character in interface)
    ):
        raise CniError(
            BAD_ENVIRONMENT,
            f"CNI_IFNAME: {interface[:40]!r} is no name of an interface",
            "1 to 15 characters",
        )
    return f"{path_setting(config, 'dataDir', DEFAULT_DATA_DIR)}/{_kept_name(container, interface)}"


def _kept_name(container: str, interface: str) -> str:
    """The name of the file that is kept for an attachment: no two have the same."""
    return container if interface == "eth0" else f"{container}@{interface}"


def _keep(path: str, delegate: Fields) -> None:
    """Write the configuration so that a crash leaves all of it or nothing. OSError if that fails, CniError
    if a link or what else is no file has its name: it is not replaced. The file is new, so that nobody has it
    open to write: a later DEL runs the program that it names.
    """
    folder, _, name = path.rpartition("/")
    os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103 - as above
    aside = f"{folder}/@{name}"  # the name of no attachment
    for each in (path, aside):
        if os.path.lexists(each):
            _check_regular(each, os.lstat(each))
    _remove(aside)  # what a killed ADD has left
    file = os.open(aside, _ASIDE, 0o600)
    try:
        rest = memoryview(json.dumps(delegate).encode())
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)
    os.rename(aside, path)  # noqa: PTH104 - as above


def _read_kept(path: str) -> Fields | None:
    """The kept configuration; None if there is none. CniError if it cannot be read."""
    try:
        text = _read_file(path, MAX_CONFIG_BYTES)
    except FileNotFoundError:
        return None
    try:
        kept = json.loads(text)
    except (ValueError, RecursionError):
        kept = None
    if not isinstance(kept, dict) or not isinstance(kept.get("type"), str):
        raise CniError(
            IO_FAILURE, f"{path}: is damaged", "remove the file, and what the container had with the plugins"
        )
    return kept


def _remove(path: str) -> None:
    try:
        os.unlink(path)  # noqa: PTH108 - as above
    except FileNotFoundError:
        return  # two DELs at once


def _run(delegate: Fields, program: str) -> int:
    """Run a plugin with this configuration on standard input; its output is ours. Returns its exit status."""
    text = json.dumps(delegate).encode()
    source = os.memfd_create("config", os.MFD_CLOEXEC)
    try:
        rest = memoryview(text)
        while rest:
            rest = rest[os.write(source, rest) :]
        os.lseek(source, 0, os.SEEK_SET)
        process = os.posix_spawn(
            program, [program], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, source, 0)]
        )
    finally:
        os.close(source)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if status < 0:
        raise CniError(IO_FAILURE, f"{program}: was ended by signal {-status}")
    return status


def _find(kind: str) -> str:
    """The path of a plugin's program, from CNI_PATH."""
    folders = os.environ.get("CNI_PATH", "").split(os.pathsep)
    for folder in folders:
        path = f"{folder}/{kind}"
        if folder.startswith("/") and os.path.isfile(path) and os.access(path, os.X_OK):  # noqa: PTH113
            return path
    raise CniError(
        BAD_CONFIG,
        f"delegate.type: the plugin {kind[:80]} is not in CNI_PATH",
        "install it (Debian: containernetworking-plugins); CNI_PATH has"
        f" {', '.join(folders)[:400] or 'nothing'}",
    )
