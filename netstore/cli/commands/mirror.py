"""`netstorectl mirror`: the v3 keys of one store copied into another, and kept equal while both run."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import click

from netstore.cli.commands.failures import refused, usage
from netstore.cli.commands.invocation import Settings, say, warn
from netstore.cli.commands.options import Command, pass_settings
from netstore.cli.commands.v3calls import v3_client
from netstore.cli.output import Table

if TYPE_CHECKING:
    from netstore.client.mirror import Told

CHECKPOINT: Final = "netstore/mirror"
"""The key of the checkpoint in the target."""


@click.command("mirror", cls=Command)
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option("--keys", default="", metavar="PREFIX", help="Only the keys that begin so.  [all]")
@click.option("--target-prefix", metavar="PREFIX", help="What they begin with in TARGET.  [the same]")
@click.option(
    "--checkpoint", default=CHECKPOINT, show_default=True, help="The key in TARGET that keeps how far."
)
@click.option("--once", is_flag=True, help="Copy, and do not follow.")
@click.option("--overwrite", is_flag=True, help="Replace and delete what TARGET has there at first.")
@click.option("--target-ca-file", type=click.Path(), help="As --ca-file, for TARGET.")
@click.option("--target-cert-file", type=click.Path(), help="As --cert-file, for TARGET.")
@click.option("--target-key-file", type=click.Path(), help="As --key-file, for TARGET.")
@click.option("--target-username", metavar="NAME[:PASSWORD]", help="As --username, for TARGET.  [none]")
@pass_settings
def mirror(
    settings: Settings,
    source: str,
    target: str,
    *,
    keys: str,
    target_prefix: str | None,
    checkpoint: str,
    once: bool,
    overwrite: bool,
    target_ca_file: str | None,
    target_cert_file: str | None,
    target_key_file: str | None,
    target_username: str | None,
) -> None:
    """Copy the v3 keys of SOURCE into TARGET, and follow.

    Both are the URLs of a netstore or an etcd; several of one cluster are separated by commas. One way: what
    others write into TARGET there is lost. Stop it as you like: the next run goes on where this one was.
    Values are kept; revisions, versions and leases are not. For those see netstorectl import.
    """
    from netstore.client.mirror import Mirror, NotMirrored, Scope  # noqa: PLC0415 - see Settings.run

    if not checkpoint:
        usage("--checkpoint: is empty; name a key")
    scope = Scope(
        keys.encode(), (keys if target_prefix is None else target_prefix).encode(), checkpoint.encode()
    )
    source_settings = dataclasses.replace(settings, endpoints=source)
    target_settings = dataclasses.replace(
        settings,
        endpoints=target,
        ca_file=target_ca_file or settings.ca_file,
        cert_file=target_cert_file or settings.cert_file,
        key_file=target_key_file or settings.key_file,
        username=target_username,  # a password of one store is not shown to another
    )
    done: list[Told] = []

    def told(state: Told) -> None:
        done[:] = [state]

    async def mirrored() -> None:
        async with v3_client(source_settings) as one, v3_client(target_settings) as other:
            work = Mirror(one, other, scope, told, _trouble, overwrite=overwrite)
            if once:
                await work.copy()
                return
            say(f"{source} is copied to {target} and followed; stop it with Ctrl-C")
            await work.follow()

    try:
        settings.run(mirrored)
    except NotMirrored as error:
        raise refused(str(error)) from None
    for state in done:
        fields = (("revision", state.revision), ("written", state.written), ("deleted", state.deleted))
        settings.show(dict(fields), Table(("FIELD", "VALUE"), fields))


def _trouble(text: str) -> None:
    if text:
        warn(f"{text}; it is tried again until it succeeds")
    else:
        say("the copy goes on")
