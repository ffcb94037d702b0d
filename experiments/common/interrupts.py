"""End on Ctrl-C and SIGTERM with one line and the exit status that shells expect (130, 143)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
RETRY = 0.01  # seconds


def install() -> None:
    """Raise SystemExit on both signals, so that every `finally` runs."""
    process = os.getpid()

    def end(signum: int, frame: FrameType | None) -> None:
        if _swallows(frame):
            signal.signal(signal.SIGALRM, lambda _, later: end(signum, later))
            signal.setitimer(signal.ITIMER_REAL, RETRY)
            return
        for other in NAMES:  # a second signal ends it at once
            signal.signal(other, signal.SIG_DFL)
        if os.getpid() == process:  # not in a data loader's worker
            print(
                f"\n{NAMES[signal.Signals(signum)]}; the same command goes on where it stopped",
                file=sys.stderr,
            )
        sys.exit(128 + signum)

    for signum in NAMES:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup, or a shell's background job
            signal.signal(signum, end)


def make_errors_final() -> None:
    """Let an error that a signal handler raises end the process, with exit status 1.

    A launcher's handlers raise ordinary exceptions: submitit's UncompletedJobError at a time limit.
    A broad `except` would take one for an error of the run, and the job would seem to have ended.
    """
    for signum in signal.valid_signals():
        handler = signal.getsignal(signum)
        if callable(handler) and not getattr(handler, "is_final", False):
            signal.signal(signum, _final(handler))


def _final(handler: Callable[[int, FrameType | None], Any]) -> Callable[..., None]:
    def call(signum: int, frame: FrameType | None) -> None:
        try:
            handler(signum, frame)
        except Exception as error:
            sys.exit(f"{type(error).__name__}: {error}")

    call.is_final = True  # type: ignore[attr-defined]
    return call


def _swallows(frame: FrameType | None) -> bool:
    """Whether an exception raised in this frame would be lost.

    Python prints and drops exceptions in finalisers and weak-reference callbacks. Importing a
    module goes through such a callback.
    """
    while frame is not None:
        code = frame.f_code
        if code.co_name == "__del__" or (code.co_name == "cb" and "importlib" in code.co_filename):
            return True
        frame = frame.f_back
    return False
