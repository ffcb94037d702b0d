"""Ctrl-C and SIGTERM at any moment: one line, no traceback, the exit status, and the same command goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, clean_environment

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
    deadline = time.monotonic() + 200
    while not reached(outputs) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    return process.returncode, errors


def importing(outputs):
    time.sleep(0.5)
    return True


def set_up(outputs):
    return any(outputs.glob("runs/*/.lock"))


def training(outputs):
    return any(outputs.glob("runs/*/*.ckpt"))


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
