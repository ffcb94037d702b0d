"""A sweep: Tables 6 and 7 of one task and seed on the built-in encoder, beside its naive form.

Ours is two commands, one for each table, at the same time on a core each, as with `make -j2`;
stage 1 is computed once. The naive form is a shell loop that starts plain_peft.py for each of the
same runs, one after the other. Wall seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.benchmark.commands import timed

TASK = "mini_sentiment"
SWEEPS = (
    ["method=lora_drop", "method.threshold=1,0.95,0.9,0.8,0.7"],
    ["method=lora_drop_no_share,lora_drop_inverse,lora_drop_random,lora_drop_upper_layers"],
)
COMMON = [f"task={TASK}", "backbone=tiny_roberta", "seed=0", "trainer.progress_bar=false"]
STRATEGIES = {
    "lora_drop": [],
    "lora_drop_no_share": ["--no-share"],
    "lora_drop_inverse": ["--strategy", "inverse"],
    "lora_drop_random": ["--strategy", "random"],
    "lora_drop_upper_layers": ["--strategy", "upper"],
}


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Time both forms once, ours and then the naive one."""
    from experiments.config.sweep import expand_sweep

    configs = [config for sweep in SWEEPS for config in expand_sweep([*COMMON, *sweep])]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_rows(configs[0], folder)
        start = time.perf_counter()
        with ThreadPoolExecutor() as pool:
            list(pool.map(timed, (_ours(sweep, folder) for sweep in SWEEPS)))
        seconds = {
            "loradrop": time.perf_counter() - start,
            "naive": sum(timed(_naive(config, folder))["wall_seconds"] for config in configs),
        }
    ratio = round(seconds["naive"] / seconds["loradrop"], 2)
    print(f"{len(configs)} runs: {seconds}, ratio {ratio}")
    return {"runs": len(configs), "wall_seconds": seconds, "ratio": ratio}


def _ours(sweep: list[str], folder: Path) -> list[str]:
    return [
        *("-m", "experiments.run", "-m", *COMMON, *sweep),
        *("trainer.num_threads=1", f"paths.outputs={folder / 'outputs'}"),
    ]


def _naive(config: Any, folder: Path) -> list[str]:
    from loradrop.hub import ASSETS

    recipe = config.recipe
    options = {
        "--epochs": recipe.epochs,
        "--batch-size": recipe.batch_size,
        "--learning-rate": recipe.adapter_learning_rate or recipe.learning_rate,
        "--alpha": recipe.lora_alpha,
        "--threshold": config.method.threshold,
    }
    return [
        str(Path(__file__).with_name("plain_peft.py")),
        *(str(ASSETS / "tiny_roberta"), str(folder / "train.jsonl"), str(folder / "dev.jsonl")),
        *STRATEGIES[config.method.name],
        *(str(part) for option in options.items() for part in option),
    ]


def _write_rows(config: Any, folder: Path) -> None:
    """Write the built-in task's rows as JSON lines."""
    from experiments.config.validation import check
    from loradrop.tasks.base import LABEL, TRAIN

    built = check(config)
    splits = built.task.splits(built.data)
    [(_, dev)] = splits.evaluation.items()
    for name, rows in ((TRAIN, splits.train), ("dev", dev)):
        lines = [
            json.dumps({"text": row[config.task.columns[0]], "label": row[LABEL]}) for row in rows
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
