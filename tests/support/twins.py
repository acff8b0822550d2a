"""A source that is begun anew with the ids that it had, for tests of what is copied of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.daemon import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon


class Twins:
    """A source that is begun anew with the same flags, so that it has the same ids, and a target."""

    def __init__(self, folder: Path, target: Daemon, start: Callable[..., Daemon]) -> None:
        self.target = target
        self._start = start
        self._folder = folder
        self._port, peer = free_port(), f"http://127.0.0.1:{free_port()}"
        self._flags = (
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}", "--initial-cluster-token", "twin"),
        )
        self._source: Daemon | None = None

    def begin(self, *, of: Path | None = None, write: Callable[[Daemon], None] | None = None) -> Daemon:
        """Begin the source anew, or of a copy of its folder. What is to be written before others may reach it
        is written by `write`.
        """
        self.end()
        shutil.rmtree(self._folder, ignore_errors=True)
        if of is None:
            self._folder.mkdir()
        else:
            shutil.copytree(of, self._folder)
        if write is not None:
            with self._start(self._folder, *self._flags) as hidden:
                write(hidden)
        self._source = self._start(self._folder, *self._flags, port=self._port)
        return self._source

    def copy(self, name: str) -> Path:
        """End the source; a copy of its folder."""
        self.end()
        return Path(shutil.copytree(self._folder, self._folder.with_name(name)))

    def end(self) -> None:
        """End the source, if it runs."""
        if self._source is not None:
            self._source.kill()
            self._source = None
