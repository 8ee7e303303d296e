"""The installed program's entry point: Ctrl-C during the imports of `main` prints one word and no traceback."""

from __future__ import annotations

import sys

INTERRUPTED = 130

try:
    import os
    import signal

    def _interrupt(_number: int, _frame: object) -> None:
        # Nothing is begun that were to be tidied up; and an exception might be lost, for Python raises it wherever it
        # is at work on an import, also where it lets none through.
        os.write(2, b"Interrupted.\n")
        os._exit(INTERRUPTED)

    # Who started this may have it ignored, as shells do for what they start in the background.
    _MINDED = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if _MINDED:
        signal.signal(signal.SIGINT, _interrupt)
    from .main import main
except KeyboardInterrupt:
    sys.stderr.write("Interrupted.\n")
    raise SystemExit(INTERRUPTED) from None


def start() -> None:
    """Run the command line and exit with its code."""
    try:
        if _MINDED:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
    except KeyboardInterrupt:
        # `main` says so itself; this one came before it could.
        sys.stderr.write("Interrupted.\n")
        raise SystemExit(INTERRUPTED) from None
