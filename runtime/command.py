"""How every command ends: one line for what the user can mend, 130 on Ctrl-C, in silence when its reader has gone."""

import os
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

INTERRUPTED = 130  # as shells count it: 128 + SIGINT


def run(main: Callable[[], Any], stopped: str = "stopped") -> NoReturn:
    """Call main and exit with what it returns (None: 0), or 1 after one line on stderr. For `__main__` blocks.

    stopped: what to say on Ctrl-C, and on SIGTERM, by which service managers and batch systems stop. A reader that closes
    the pipe, such as `head`, has what it wanted: that is no error.
    """
    code: int | None
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us: a file opened next would take its number
            setattr(sys, name, open(os.devnull, "w"))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or nothing would clean up behind it
    try:
        try:
            code = main()
        finally:
            sys.stdout.flush()  # what is still buffered finds a closed pipe here and not in Python's last words
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # Python flushes both once more
            os.dup2(nowhere, stream.fileno())
        code = 0
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        code = INTERRUPTED
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 1
    sys.exit(code)


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks; its type's name where it says nothing."""
    return " ".join(line.strip() for line in str(error).splitlines()).strip() or type(error).__name__


def failed_import(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A sys.excepthook for what happens before `run` begins: Ctrl-C while torch loads, or no torch to load."""
    if issubclass(kind, KeyboardInterrupt):
        print("\nstopped", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)  # sys.exit has no effect in a hook
    if isinstance(error, ModuleNotFoundError):
        print(f"error: {error}: see pyproject.toml for the extra of tinyear that brings it", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
