"""End on Ctrl-C and SIGTERM with one line and the exit status that shells expect (130, 143)."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

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
