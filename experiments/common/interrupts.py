"""Ctrl-C and SIGTERM: one line, and the exit status that shells expect (130, 143)."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def install() -> None:
    """End this process by SystemExit on both signals, so that every `finally` runs."""
    process = os.getpid()

    def end(signum: int, frame: FrameType | None) -> NoReturn:
        for other in NAMES:  # once more ends it at once
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
