"""Structured logs on stderr: one line for each event, key=value on a terminal, else JSON.

The name of an event is stable, in snake_case, for alerts and runbooks to refer to. Whatever a caller passes:
an event is one line, with control characters escaped, so that a client cannot send sequences to the
operator's terminal; secrets are hidden, recognized by the name of a field and by patterns in its text; and a
log that cannot be written does not stop the program. A key of the store is logged as `path`, because a field
named `key` is hidden.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import sys
import threading
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, TextIO, cast


class _Asyncio(ModuleType):
    """asyncio for structlog, whose methods for it are not used here: loaded when they are."""

    def __getattr__(self, name: str) -> object:
        return getattr(importlib.import_module("asyncio"), name)


# What structlog imports and is not used here takes a fifth of the time to start, and 8 MiB. Where rich is
# installed, it is for coloured tracebacks; None in its place makes that import fail, which structlog expects.
_STAND_INS: Final = {
    name: module
    for name, module in {"rich": None, "asyncio": _Asyncio("asyncio")}.items()
    if name not in sys.modules
}
sys.modules.update(_STAND_INS)  # type: ignore[arg-type] # the import system knows None
import structlog  # noqa: E402

for _name in _STAND_INS:
    del sys.modules[_name]

from netstore.ops.loglevels import LEVELS  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from structlog.typing import FilteringBoundLogger, WrappedLogger

MAX_TEXT: Final = 2048
"""Most characters of one value; a longer one is cut, and its length added."""

MAX_TRACE: Final = 16_384
"""Most characters of a traceback. Its end is kept, which names the exception."""

MAX_ITEMS: Final = 64
"""Most items of a list or mapping."""

MAX_DEPTH: Final = 4
"""Most levels of nested lists and mappings."""

HIDDEN: Final = "(hidden)"

_SECRET_NAME: Final = re.compile(
    r"(?:.*[_-])?(?:password|passwd|passphrase|secret|authorization|cookie|credentials?|token|key|pem)(?:[_-]data)?",
    re.IGNORECASE,
)
_SECRET_TEXT: Final = re.compile(
    r"(?P<user>://[^/\s:@]*:)[^/\s@]+(?=@)"
    r"|(?P<field>(?:authorization|cookie)[\"']?\s*[:=]\s*[\"']?)[^\r\n\"',}]+"
    r"|(?P<word>(?:password|passwd|secret|token)[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&}]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
    re.IGNORECASE | re.DOTALL,
)

_LEVEL_WORDS: Final = {"warning": "warn", "critical": "fatal", "exception": "error"}


class RateLimit:
    """Bounds the lines of each event name: a burst, then so many a second (token bucket).

    The next line that passes has `suppressed`, the number of lines dropped before it. Beyond `names` event
    names all others share one bucket, so memory is bounded.
    """

    def __init__(
        self,
        burst: int = 50,
        per_second: float = 10.0,
        names: int = 512,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._names = names
        self._clock = clock
        self._budgets: dict[str, tuple[float, float, int]] = {}
        self._lock = threading.Lock()

    def __call__(self, _: WrappedLogger, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Return the line, or drop it (a processor of structlog)."""
        with self._lock:
            name = str(line.get("event"))
            if name not in self._budgets and len(self._budgets) >= self._names:
                name = ""
            now = self._clock()
            left, then, suppressed = self._budgets.get(name, (float(self._burst), now, 0))
            left = min(float(self._burst), left + (now - then) * self._per_second)
            if left < 1.0:
                self._budgets[name] = (left, now, suppressed + 1)
                raise structlog.DropEvent
            self._budgets[name] = (left - 1.0, now, 0)
        if suppressed:
            line["suppressed"] = suppressed
        return line


def hide_secrets(_: WrappedLogger, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Hide secrets and bound the size of each value (a processor of structlog)."""
    for name, value in line.items():
        if name == "exception":
            line[name] = _SECRET_TEXT.sub(_mask, str(value)[-16 * MAX_TRACE :])[-MAX_TRACE:]
        else:
            line[name] = HIDDEN if _is_secret(name) and value is not None else presentable(value)
    return line


def presentable(value: object, depth: int = MAX_DEPTH) -> object:
    """The value with secrets hidden, size bounded, and types that JSON has."""
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            head = value[: 2 * MAX_TEXT]
            marked = ":" in head or "=" in head or "-----" in head
            return _cut(_SECRET_TEXT.sub(_mask, head) if marked else head, len(value))
        case bytes() | bytearray() | memoryview():
            return presentable(bytes(value[: 2 * MAX_TEXT]).decode("utf-8", "backslashreplace"), depth)
        case dict() if depth:
            return {
                str(name): HIDDEN if _is_secret(str(name)) else presentable(item, depth - 1)
                for name, item in list(value.items())[:MAX_ITEMS]
            }
        case list() | tuple() | set() | frozenset() if depth and not hasattr(value, "_fields"):
            return [presentable(item, depth - 1) for item in list(value)[:MAX_ITEMS]]
        case _:
            return presentable(str(value), depth)


@functools.lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    return _SECRET_NAME.fullmatch(name) is not None


def _mask(match: re.Match[str]) -> str:
    return f"{match['user'] or match['field'] or match['word'] or ''}{HIDDEN}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... ({length} characters)"


def _name_level(_: WrappedLogger, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    line["level"] = _LEVEL_WORDS.get(method, method)
    return line


def as_json(_: WrappedLogger, __: str, line: MutableMapping[str, Any]) -> str:
    """The line as one JSON object, in ASCII: ts, level, event, room, then the fields as given."""
    head = {name: line.pop(name) for name in ("ts", "level", "event", "room") if name in line}
    return json.dumps({**head, **line}, default=str)


def as_words(_: WrappedLogger, __: str, line: MutableMapping[str, Any]) -> str:
    """The line for a terminal: time, level, event, key=value. A traceback follows on further lines."""
    exception = line.pop("exception", None)
    head = f"{line.pop('ts', '')} {line.pop('level', ''):<5} {_word(line.pop('event', ''))}"
    text = " ".join([head, *(f"{_word(name)}={_word(value)}" for name, value in line.items())])
    if exception is None:
        return text
    return "\n".join([text, *(f"    {_printable(each)}" for each in str(exception).splitlines())])


def _word(value: object) -> str:
    if isinstance(value, str):
        return value if re.fullmatch(r"[!#-<>-~]+", value) else json.dumps(value)
    return json.dumps(value, default=str)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class LineWriter:
    """Writes lines to each of some streams; counts in `lost` those that one did not take."""

    def __init__(self, *streams: TextIO) -> None:
        self._streams = streams
        self._lock = threading.Lock()
        self.lost = 0

    def write(self, line: str) -> None:
        """Write one line and flush. Blocks while a pipe is full."""
        with self._lock:
            for stream in self._streams:
                try:
                    stream.write(line + "\n")
                    stream.flush()
                except (OSError, ValueError):
                    self.lost += 1

    debug = info = warning = error = critical = exception = msg = write


def configure(
    level: str = "info",
    form: str = "auto",
    stream: TextIO | None = None,
    *more: TextIO,
    limit: RateLimit | None = None,
) -> None:
    """Set up logging for the process. Call it once, before the first line; it affects loggers made earlier.

    `level` is a word of LEVELS, `form` one of FORMATS: auto means console if `stream` (stderr by default) is
    a terminal. Each line is written to `more` as well, in the same form.
    """
    out = sys.stderr if stream is None else stream
    words = form == "console" or (form == "auto" and out.isatty())
    structlog.configure(
        processors=[
            limit or RateLimit(),
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            hide_secrets,
            _name_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            as_words if words else as_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: LineWriter(out, *more),
        cache_logger_on_first_use=False,
    )


def set_level(level: str) -> None:
    """Change the least level that is logged, a word of LEVELS, for all loggers. Call it after `configure`."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]))


def get_logger(name: str) -> FilteringBoundLogger:
    """The logger for one part of the program, whose name is in each line as `room`.

    Use: `log.info("member_started", name=..., url=...)`. A line costs about 10 us, one below the level about
    1 us: do not log on the path of a request.
    """
    return cast("FilteringBoundLogger", structlog.get_logger(room=name))
