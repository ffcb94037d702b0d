"""Ctrl-C and SIGTERM at any moment: one line, no traceback, the exit status, and the same command
goes on.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, clean_environment

from experiments.common.interrupts import _swallows, make_errors_final

LONG = [
    "method=lora",
    "recipe.epochs=500",
    "task.train_size=640",
    "trainer.progress_bar=false",
    "trainer.num_threads=1",
]
COMMAND = [sys.executable, "-m", "experiments.run", *LONG, "trainer.checkpoint_minutes=0"]


def interrupted(outputs, number, reached):
    """The ended process and its stderr; the signal is sent as soon as `reached` holds."""
    command = [*COMMAND, f"paths.outputs={outputs}"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        while not reached(process, outputs):
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate()
    finally:
        process.kill()
    return process.returncode, errors


def importing(process, outputs):
    """Python itself catches no SIGTERM, so it is ours that is caught."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    (caught,) = re.findall(r"SigCgt:\s*(\w+)", status)
    return int(caught, 16) >> (signal.SIGTERM - 1) & 1


def set_up(process, outputs):
    return any(outputs.glob("runs/*/.lock"))


def training(process, outputs):
    return any(outputs.glob("runs/*/*.ckpt"))


def test_an_exception_is_not_raised_where_it_would_be_lost():
    class Finalised:
        def __del__(self):
            found.append(_swallows(sys._getframe()))

    found = []
    Finalised()
    assert found == [True] and not _swallows(sys._getframe())


def test_an_error_of_another_signal_handler_is_not_swallowed():
    def out_of_time(signum, frame):  # as submitit's does
        raise RuntimeError("Job not requeued because: timed-out too many times.")

    before = signal.signal(signal.SIGUSR2, out_of_time)
    try:
        make_errors_final()
        make_errors_final()
        with pytest.raises(SystemExit, match="RuntimeError: Job not requeued"):
            try:
                signal.raise_signal(signal.SIGUSR2)
            except Exception:  # a broad one, as around a run's training
                pytest.fail("it was taken for an error of the run")
    finally:
        signal.signal(signal.SIGUSR2, before)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("reached", [importing, set_up, training])
@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_one_line_and_the_status(tmp_path, reached, number, status, word):
    found, errors = interrupted(tmp_path / "outputs", number, reached)
    assert found == status
    assert errors.strip() == f"{word}; the same command goes on where it stopped"
    left = [path.name for path in tmp_path.rglob(".*") if path.is_file()]
    assert set(left) <= {".lock"}
    assert len(list(tmp_path.glob("outputs/runs/*/checkpoint.ckpt"))) == (reached is training)
