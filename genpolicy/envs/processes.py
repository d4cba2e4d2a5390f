"""Starting processes from whatever called the library: a script without a main guard, a notebook, the command line."""

import multiprocessing.resource_tracker
import signal
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def undisturbed_start() -> Iterator[None]:
    """Processes spawned in here do not receive Ctrl-C and do not import the calling script.

    Blocked signals are inherited, so SIGINT stays blocked in the processes from their first instruction on. The
    script (``__main__``) would load whatever it imports, torch for one, or run twice if it has no main guard.
    """
    # Starting the resource tracker unblocks SIGINT, so it has to run before SIGINT is blocked.
    multiprocessing.resource_tracker.ensure_running()
    main = sys.modules["__main__"]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
