"""`netstorectl mirror`: the keys of one store copied into another, and kept equal while both run."""

from __future__ import annotations

import dataclasses
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import click

from netstore.cli.commands.failures import Failure, failure_of, refused, usage
from netstore.cli.commands.invocation import TLS_OPTIONS, Settings, check_used, clean, say, warn
from netstore.cli.commands.options import NAME, Command, is_text, pass_settings
from netstore.cli.commands.v3calls import v3_client
from netstore.cli.output import Table

if TYPE_CHECKING:
    from netstore.client import mirror_v2, mirror_v2_nodes, mirror_v3
    from netstore.client.mirror import Told
    from netstore.client.v2 import V2Client

CHECKPOINT: Final = "netstore/mirror"
"""The key of the checkpoint in the target; of the v2 tree the hidden one of this name."""

_NOT_FOUND: Final = 404


@click.command("mirror", cls=Command)
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option(
    "--api", type=click.Choice(["v3", "v2"]), help="Only the keys of this API.  [those that SOURCE has]"
)
@click.option("--keys", default="", metavar="PREFIX", help="Only the keys that begin so.  [all]")
@click.option("--target-prefix", metavar="PREFIX", help="What they begin with in TARGET.  [the same]")
@click.option(
    "--checkpoint", default=CHECKPOINT, show_default=True, help="The key in TARGET that keeps how far."
)
@click.option("--once", is_flag=True, help="Copy, and do not follow.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Delete what TARGET has there, also when SOURCE went back or is another.",
)
@click.option("--target-ca-file", type=NAME, help="As --ca-file, for TARGET.")
@click.option("--target-cert-file", type=NAME, help="As --cert-file, for TARGET.")
@click.option("--target-key-file", type=NAME, help="As --key-file, for TARGET.")
@click.option("--target-username", metavar="NAME[:PASSWORD]", help="As --username, for TARGET.  [none]")
@pass_settings
def mirror(
    settings: Settings,
    source: str,
    target: str,
    *,
    api: str | None,
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
    """Copy the keys of SOURCE into TARGET, and follow: those of the v3 API, and the v2 tree if there is one.

    Both are the URLs of a netstore or an etcd; several of one cluster are separated by commas. One way: what
    others write into TARGET there is lost, at the latest when all keys are compared again. Stop it as you
    like: the next run goes on where this one was.
    Values and v2 TTLs are kept; revisions, versions, leases and v2 indexes are not. For those see netstorectl
    import.
    """
    from netstore.client import mirror_v2_nodes, mirror_v3  # noqa: PLC0415 - see Settings.run
    from netstore.client.mirror import NotMirrored  # noqa: PLC0415 - same

    if not checkpoint.strip("/"):
        usage("--checkpoint: is empty; name a key")
    there = keys if target_prefix is None else target_prefix
    if api != "v3":
        for option, word in (("--keys", keys), ("--target-prefix", there), ("--checkpoint", checkpoint)):
            if not is_text(word):
                usage(f"{option}: is not UTF-8, as names of the v2 API are: copy these v3 keys with --api v3")
    own = {
        "--ca-file": target_ca_file,
        "--cert-file": target_cert_file,
        "--key-file": target_key_file,
        "--username": target_username,
    }
    shared = {
        "--ca-file": settings.ca_file,
        "--cert-file": settings.cert_file,
        "--key-file": settings.key_file,
    }
    names = {
        option: option.replace("--", "--target-")
        for option, value in own.items()
        if value or not shared.get(option)
    }
    # Whether a file has an effect is checked below, where it is known for which sides it is.
    source_settings = dataclasses.replace(
        settings, endpoints=source, flags=set(), names={"--endpoints": "SOURCE"}
    )
    target_settings = dataclasses.replace(
        settings,
        endpoints=target,
        flags=set(),
        names=names | {"--endpoints": "TARGET"},
        ca_file=target_ca_file or settings.ca_file,
        cert_file=target_cert_file or settings.cert_file,
        key_file=target_key_file or settings.key_file,
        username=target_username,  # a password of one store is not shown to another
    )
    for option in sorted(TLS_OPTIONS):
        if option in settings.flags:
            check_used(option, source_settings, *(() if own[option] else (target_settings,)))
        if own[option]:
            check_used(names[option], target_settings)
    work = _Work(
        source_settings,
        target_settings,
        mirror_v3.Scope(os.fsencode(keys), os.fsencode(there), os.fsencode(checkpoint)),
        mirror_v2_nodes.Scope(clean(keys), clean(there), clean(f"_{checkpoint.lstrip('/')}")),
        once=once,
        overwrite=overwrite,
    )
    try:
        settings.run(lambda: work.run(api))
    except NotMirrored as error:
        raise refused(str(error)) from None
    settings.show(dict(work.fields), Table(("FIELD", "VALUE"), tuple(work.fields.items())))


class _Work:
    """One run of the command."""

    def __init__(
        self,
        source: Settings,
        target: Settings,
        scope_v3: mirror_v3.Scope,
        scope_v2: mirror_v2_nodes.Scope,
        *,
        once: bool,
        overwrite: bool,
    ) -> None:
        self._source = source
        self._target = target
        self._v3 = scope_v3
        self._v2 = scope_v2
        self._once = once
        self._overwrite = overwrite
        self.fields: dict[str, int] = {}
        """What was done."""

    async def run(self, api: str | None) -> None:
        """What `do` does. A failed call becomes a `Failure` that names the store, and its options."""
        from netstore.client.faults import ClientError  # noqa: PLC0415 - see Settings.run

        try:
            await self.do(api)
        except ClientError as error:
            failure = failure_of(error)
            asked = getattr(error, "tried", None) or [(getattr(error, "endpoint", ""), "")]
            is_target = asked[0][0] in self._target.addresses()
            side, settings = ("TARGET", self._target) if is_target else ("SOURCE", self._source)
            raise Failure(failure.status, f"{side}: {settings.renamed(failure.text)}") from None

    async def do(self, api: str | None) -> None:
        """Copy the keys of an API, or of all that the source has; follow, unless only a copy is wanted."""
        from netstore.client import mirror_v2, mirror_v3  # noqa: PLC0415 - see Settings.run
        from netstore.client.mirror import together  # noqa: PLC0415 - same

        async with AsyncExitStack() as parts:
            works: list[mirror_v3.Mirror | mirror_v2.Mirror] = []
            if api != "v2":
                one, other = [await parts.enter_async_context(v3_client(each)) for each in self._both]
                works.append(
                    mirror_v3.Mirror(
                        one,
                        other,
                        self._v3,
                        self._told_v3,
                        _trouble,
                        notice=warn,
                        overwrite=self._overwrite,
                    )
                )
            if api != "v3":
                first, second = [await parts.enter_async_context(each.client()) for each in self._both]
                if await self._has_v2(first, second, is_asked=api == "v2"):
                    works.append(
                        mirror_v2.Mirror(
                            first,
                            second,
                            self._v2,
                            self._told_v2,
                            _trouble,
                            notice=warn,
                            overwrite=self._overwrite,
                        )
                    )
            if self._once:
                for work in works:
                    await work.copy()
                return
            source, target = (each.endpoints for each in self._both)
            say(f"{source} is copied to {target} and followed; stop it with Ctrl-C")
            await together([work.follow for work in works])

    @property
    def _both(self) -> tuple[Settings, Settings]:
        return self._source, self._target

    async def _has_v2(self, source: V2Client, target: V2Client, *, is_asked: bool) -> bool:
        """Whether the v2 tree is to be copied. `Failure` if the target cannot take it."""
        from netstore.client.faults import BadAnswer  # noqa: PLC0415 - see Settings.run
        from netstore.client.mirror import Patience  # noqa: PLC0415 - same

        patience = Patience(_trouble)
        patience.is_endless = not self._once
        try:
            is_empty = await patience.persist(lambda: _is_empty(source, self._v2.source))
        except BadAnswer as error:
            if is_asked or error.status != _NOT_FOUND:
                raise
            say("SOURCE does not serve the v2 API: its v3 keys are copied")
            return False
        try:
            await patience.persist(lambda: _is_empty(target, self._v2.target))
        except BadAnswer as error:
            if is_asked or error.status != _NOT_FOUND:
                raise
            if not is_empty:
                raise refused(
                    "TARGET does not serve the v2 API, and SOURCE has v2 keys: switch it on there (etcd:"
                    " --enable-v2), or leave them out with --api v3"
                ) from None
            say("TARGET does not serve the v2 API: the v3 keys are copied")
            return False
        return True

    def _told_v3(self, told: Told) -> None:
        self.fields |= {"revision": told.revision, "written": told.written, "deleted": told.deleted}

    def _told_v2(self, told: Told) -> None:
        self.fields |= {"v2Index": told.revision, "v2Written": told.written, "v2Deleted": told.deleted}


async def _is_empty(client: V2Client, folder: str) -> bool:
    """Whether a store has no v2 keys there. BadAnswer with status 404 if it does not serve the API."""
    from netstore.client.faults import TooLong  # noqa: PLC0415 - see Settings.run
    from netstore.client.v2 import KEY_NOT_FOUND, NOT_A_FOLDER, V2Error  # noqa: PLC0415 - same

    try:
        node = (await client.get(folder)).node
    except TooLong:
        return False
    except V2Error as error:
        if error.code not in {KEY_NOT_FOUND, NOT_A_FOLDER}:
            raise
        return True
    return node.dir and not node.nodes


def _trouble(text: str) -> None:
    if text:
        warn(f"{text}; it is tried again until it succeeds")
    else:
        say("the copy goes on")
