"""`netstorectl export`: the data of a netstore as files of an etcd: a data folder, or a snapshot file."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from netstore.cli.commands.failures import check_apart, in_words, refused, usage
from netstore.cli.commands.folders import advice
from netstore.cli.commands.importing import DEFAULT_NAME, DEFAULT_PEER_URL, members_of
from netstore.cli.commands.invocation import Settings, say, warn
from netstore.cli.commands.options import PATH, Command, flags_given, pass_settings
from netstore.cli.output import Form, Table
from netstore.inputfile import open_input
from netstore.outputfile import check_target

if TYPE_CHECKING:
    from netstore.disk.statefile import StateFile

CLUSTER_NAME: Final = "etcd-cluster"
"""What an etcd makes the ids of a new cluster from."""


@click.command("export", cls=Command)
@click.argument("source", metavar="SOURCE", type=PATH)
@click.option("--data-dir", type=PATH, help="The data folder of an etcd to make.")
@click.option("--source-wal-dir", type=PATH, help="Where SOURCE's log is, if not in its folder.")
@click.option("--snapshot", type=PATH, help="The snapshot file to write: v3 keys only.")
@click.option("--name", default=DEFAULT_NAME, show_default=True, help="Name of the etcd.")
@click.option(
    "--initial-advertise-peer-urls",
    "peer_urls",
    metavar="URL[,URL...]",
    default=DEFAULT_PEER_URL,
    show_default=True,
    help="Where the etcd is reached by others.",
)
@click.option(
    "--skip-hash-check", is_flag=True, help="Of a v3 snapshot: do not verify the digest at its end."
)
@click.option("--without-auth", is_flag=True, help="Export although the etcd it is of asks for passwords.")
@pass_settings
def export(
    settings: Settings,
    source: Path,
    *,
    data_dir: Path | None,
    source_wal_dir: Path | None,
    snapshot: Path | None,
    name: str,
    peer_urls: str,
    skip_hash_check: bool,
    without_auth: bool,
) -> None:
    """Write what a netstore has as files of an etcd.

    SOURCE is the data folder of a netstore that is stopped, or a file of netstorectl snapshot save. With
    --data-dir an etcd 3.4 or 3.5 starts from it as the only member, with revisions, leases, the v2 tree and
    its indexes and TTLs. With --snapshot the file is one that etcdctl snapshot restore takes. Nothing in
    SOURCE is changed.
    """
    target = snapshot if data_dir is None else data_dir
    if target is None or (data_dir is not None and snapshot is not None):
        usage("give either --data-dir or --snapshot")
    if snapshot is not None and (given := flags_given("name", "peer_urls")):
        usage(f"{given[0]}: is for a data folder; etcdctl snapshot restore gives it to one that it makes")
    with ExitStack() as parts, in_words(source):
        if source_wal_dir is not None and not source.is_dir():
            usage("--source-wal-dir: is for a data folder, and SOURCE is none; leave it out")
        if skip_hash_check and source.is_dir():
            usage("--skip-hash-check: is for a snapshot file, and SOURCE is none; leave it out")
        if snapshot is not None:
            check_target(snapshot)
        from netstore.node import etcdexport  # noqa: PLC0415 - help need not wait for the store's modules
        from netstore.node.seeding import founders  # noqa: PLC0415 - same

        own = founders(members_of(name, peer_urls, None), name, CLUSTER_NAME, secrets.token_hex(16))
        state = _state(
            source,
            source_wal_dir,
            target.parent,
            parts,
            skip_digest=skip_hash_check,
            without_auth=without_auth,
        )
        check_apart((source, source_wal_dir), (target,))
        fields: tuple[tuple[str, str | int], ...]
        if snapshot is not None:
            fields = (("file", str(snapshot)), ("size", etcdexport.write_snapshot(state, snapshot)))
        else:
            done = etcdexport.write_folder(state, target, own)
            if done.changed_count:
                warn(
                    f"{done.changed_count} v2 keys have bytes that are not UTF-8, which an etcd cannot keep:"
                    f" they were replaced by U+FFFD: {', '.join(map(repr, done.changed))}"
                )
            fields = (("dataDir", str(target)), ("v2Nodes", done.nodes), ("member", f"{own.own:x}"))
    settings.show(dict(fields), Table(("FIELD", "VALUE"), fields))
    if data_dir is not None and settings.form is Form.TABLE:
        say(f"now start it: etcd --enable-v2 --data-dir {data_dir} --name {name}")


def _state(
    source: Path,
    wal_dir: Path | None,
    place: Path,
    parts: ExitStack,
    *,
    skip_digest: bool,
    without_auth: bool,
) -> StateFile:
    """The state in a stopped member's folder, or in a backup, which is restored into a folder in `place` for
    as long as it is read.
    """
    import tempfile  # noqa: PLC0415 - only here

    from netstore.disk.backupfile import MAGIC, is_backup  # noqa: PLC0415 - help need not wait for them
    from netstore.disk.datadir import is_data_folder  # noqa: PLC0415 - help need not wait for them
    from netstore.node.etcdexport import open_state  # noqa: PLC0415 - help need not wait for them
    from netstore.node.restore import Wish, restore  # noqa: PLC0415 - same

    if source.is_dir():
        told = None if is_data_folder(source) else advice(source, "the data folder of a netstore")
        if told is not None:
            raise refused(f"{source}: {told}")
        return open_state(source, parts, wal_dir)
    if not source.exists():
        raise refused(f"{source}: is not there: name a data folder, or a file of netstorectl snapshot save")
    if skip_digest:
        with open_input(source, "name a file of netstorectl snapshot save") as opened:
            if is_backup(opened.read(len(MAGIC))):
                usage("--skip-hash-check: is for v3 snapshots: a full backup is always verified")
    place.mkdir(parents=True, exist_ok=True)
    home = Path(parts.enter_context(tempfile.TemporaryDirectory(dir=place, prefix=".export-")))
    members = {DEFAULT_NAME: (DEFAULT_PEER_URL,)}
    secret = secrets.token_hex(16)
    wish = Wish(DEFAULT_NAME, members, secret, secret, skip_digest=skip_digest, without_auth=without_auth)
    for each in restore(source, home / "data", wish).left_out:
        warn(each)
    return open_state(home / "data", parts)
