"""Start-up: what passes before a command answers, or a run takes its first step; cold and warm.

The folder of results holds our evidence. Cold means empty caches beside it; the files of Python
itself are warm. Seconds are CPU seconds of the whole process, beside wall seconds.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from experiments.benchmark.commands import timed

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

# `python -m experiments.<command>`, but the expanded sweeps of the checkout are not there
WITH_OWN_CACHE = """
import pathlib, runpy, sys
from experiments.config import sweep_cache
sweep_cache.SWEEPS = pathlib.Path(sys.argv.pop(1), "sweeps")
runpy.run_module(f"experiments.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)
"""


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Time every command cold once and then warm, `rounds` times."""
    rows = []
    for name, (command, expected) in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            for evidence in Path(__file__).parents[1].glob("evidence/*.jsonl"):
                shutil.copy(evidence, folder)
            arguments = ("-c", WITH_OWN_CACHE, folder, *command, f"paths.outputs={folder}")
            timings = [
                timed(arguments, expected, OMP_NUM_THREADS="1") for _ in range(given.rounds + 1)
            ]
        warm = {key: round(median(t[key] for t in timings[1:]), 2) for key in timings[0]}
        cold = {key: round(value, 2) for key, value in timings[0].items()}
        rows.append(
            {"what": name, "command": " ".join(command), "cold": cold, "warm": warm}
            | {"timings": timings}
        )
        print(f"{name}: cold {cold}, warm {warm}")
    return {"rows": rows}
