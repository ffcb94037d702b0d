"""The demo: its first and its second time on every core, and its runs in a single process.

The share that a sweep spends outside training, evaluation and measuring is that of the process's
wall time, from its start to its end, that is not in the stages `prepare` and `fit` of its runs.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

from experiments import results
from experiments.benchmark.commands import timed

DEMO = ("-m", "experiments.reproduce", "demo", "hydra/launcher=cores")
EXPERIMENT = "experiment=demo"
STAGES = ("prepare", "fit")  # training, evaluation and measuring
LOADING = "load"  # weights, tokenizer and rows, for each run


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Time the demo twice, and then all its runs in one process."""
    with tempfile.TemporaryDirectory() as folder:
        demo = [timed((*DEMO, f"paths.outputs={folder}/demo"))["wall_seconds"] for _ in range(2)]
        overrides = (EXPERIMENT, f"paths.outputs={folder}/one")
        one = timed(("-m", "experiments.run", *overrides))["wall_seconds"]
        stages = [result.seconds for result in results.load(overrides).result]
    inside = sum(seconds[stage] for seconds in stages for stage in STAGES)
    loading = sum(seconds[LOADING] for seconds in stages)
    found: dict[str, Any] = {"first_seconds": demo[0], "second_seconds": demo[1]}
    found |= {"runs": len(stages), "one_process_seconds": one}
    found |= {"share_outside": round(1 - inside / one, 4)}
    found |= {"share_loading": round(loading / one, 4), "stages": stages}
    print({key: value for key, value in found.items() if key != "stages"})
    return found
