"""Ctrl-C and the wish of a scheduler to end, heard between two meta-steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupt:
    """While this context is open, the first SIGINT or SIGTERM only sets ``asked``; a second one acts as usual.

    Signals reach the main thread alone; in any other one this does nothing.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._first)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _first(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
