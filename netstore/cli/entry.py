"""The entry point of netstorectl: the modules of the commands take a while to load, and who interrupts it
meanwhile ends it as any other program, without a traceback.
"""

from __future__ import annotations

import signal


def main() -> None:
    """Load and run the command. An interrupt ends the process by its signal until all is loaded."""
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # ignored by some callers
    if is_usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from netstore.cli import netstorectl  # noqa: PLC0415 - this is what takes the while

    if is_usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    netstorectl.main()


if __name__ == "__main__":
    main()
