"""Graceful stopping: the first SIGINT or SIGTERM asks, the second insists."""

import signal
import threading
from types import FrameType
from typing import Any, Self


class StopSignals:
    """While entered, turns the first SIGINT or SIGTERM into ``requested``, a second into KeyboardInterrupt.

    The previous handlers come back on leaving. Several may share one: entering it again changes nothing. Outside the
    main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}
        self._depth = 0

    def __enter__(self) -> Self:
        self._depth += 1
        if self._depth > 1:
            return self
        self.requested = False
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        while self._previous and not self._depth:
            number, handler = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
