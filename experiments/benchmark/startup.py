"""Start-up: what passes before a command answers, or a run takes its first step; cold and warm.

The folder of results holds our evidence. Cold means empty caches beside it; the files of Python
itself are warm. Seconds are
CPU seconds of the whole process, beside wall seconds.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from experiments.config.schema import CONF

RUN = ("run", "task=mini_sentiment", "method=lora", "task.train_size=320", "trainer=cpu")
TINY = ("recipe.epochs=1", "trainer.num_threads=1", "trainer.progress_bar=false")
# what a user waits for, the command, and its exit status
COMMANDS: dict[str, tuple[tuple[str, ...], int]] = {
    "help": (("run", "--help"), 0),
    "a misspelt key": (("run", "recipe.epohcs=1"), 1),
    "a number out of range": (("run", "recipe.epochs=-1"), 1),
    "a missing folder": (("run", "task=rte", "paths.data=missing"), 1),
    "status of Table 7": (("status", "table7"), 0),
    "Table 7 from the evidence": (("table", "table7", "--mini"), 0),
    "the paper's parameter counts": (("table", "parameters"), 0),
    "a run of 10 steps": ((*RUN, *TINY), 0),
}


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Time every command cold once and then warm, `rounds` times."""
    rows = []
    for name, (command, expected) in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            for evidence in Path(__file__).parents[1].glob("evidence/*.jsonl"):
                shutil.copy(evidence, folder)
            outputs = () if "parameters" in command else (f"paths.outputs={folder}",)
            timings = [timed((*command, *outputs), expected) for _ in range(given.rounds + 1)]
        warm = {key: round(median(t[key] for t in timings[1:]), 2) for key in timings[0]}
        cold = {key: round(value, 2) for key, value in timings[0].items()}
        rows.append(
            {"what": name, "command": " ".join(command), "cold": cold, "warm": warm}
            | {"timings": timings}
        )
        print(f"{name}: cold {cold}, warm {warm}")
    return {"rows": rows}


def timed(command: tuple[str, ...], expected: int) -> dict[str, float]:
    """Run a command of ours; return its CPU and wall seconds.

    Raises:
        RuntimeError: Another exit status than expected.
    """
    name, *arguments = command
    before, start = _children(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", f"experiments.{name}", *arguments],
        cwd=Path(CONF).parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    wall = time.perf_counter() - start
    if done.returncode != expected:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return {"cpu_seconds": _children() - before, "wall_seconds": wall}


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
