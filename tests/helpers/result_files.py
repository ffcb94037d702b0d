"""Result files of runs that were never run: whatever a test wants tables, figures and the status to
show.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import results
from experiments.config.sweep import run_configs
from experiments.results import Failure, Result
from experiments.results.migration import SCHEMA, UNKNOWN
from experiments.results.result import from_plain

LAYERS = 12
PLAN = {"others": {}, "share": True, "lora_parameters": 2000, "parameters": 1000}


def scores(config: Mapping[str, Any]) -> list[float]:
    """Of two epochs, between 0.5 and 1, the first one the better; the same for the same backbone,
    task, method and seed.
    """
    names = "-".join(
        [*(config[group]["name"] for group in ("backbone", "task", "method")), str(config["seed"])]
    )
    best = round(random.Random(names).uniform(0.6, 0.95), 4)
    return [best, best - 0.05]


def importance(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of 12 layers of two module types, by task and seed."""
    draw = random.Random(
        f"{config['task']['name']}-{config['seed']}-{config['method'].get('sample_ratio')}"
    )
    values = {
        kind: {str(layer): draw.random() for layer in range(LAYERS)} for kind in ("query", "value")
    }
    shares = {
        kind: {layer: g / sum(layers.values()) for layer, g in layers.items()}
        for kind, layers in values.items()
    }
    sizes = {kind: dict.fromkeys(layers, 4096) for kind, layers in values.items()}
    return {"values": values, "normalized": shares, "parameters": sizes, "tokens": 100}


def surroundings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a finished and a failed run's result share."""
    return {
        "id": config["id"],
        "config": {key: value for key, value in config.items() if key != "id"},
        "started": "2026-01-01T00:00:00+00:00",
        "versions": {},
        "hardware": {},
        "git_commit": None,
    }


def result(
    config: Mapping[str, Any],
    primary: str = "accuracy",
    metrics: Callable[[Mapping[str, Any]], Sequence[float]] = scores,
    others: Mapping[str, float] | None = None,
) -> Result:
    """A finished run's; `others` are more metrics of every epoch."""
    epochs = [
        {"epoch": i, "train_loss": 0.5, primary: score, **(others or {})}
        for i, score in enumerate(metrics(config), 1)
    ]
    kept = {kind: list(range(0, LAYERS, 2)) for kind in ("query", "value")}
    shares = "threshold" in config["method"]
    plain = {
        **surroundings(config),
        "schema": SCHEMA,
        "status": results.FINISHED,
        "metrics": (
            epochs and {"primary": primary, "epochs": epochs, "best": epochs[0], "last": epochs[-1]}
        )
        or None,
        "parameters": {
            "adapter": 1000,
            "head": 10,
            "total": 10000,
            "lora_parameters": 2000 if shares else None,
        },
        "importance": importance(config) if shares else None,
        "plan": {**PLAN, "kept": kept} if shares else None,
        "seconds": {"load": 1.0, "prepare": 2.0, "fit": 57.0},
        "train_rows": 100,
        "evaluated_on": {"validation": 50},
        "notes": [],
        "data_fingerprint": UNKNOWN,
        "weights_fingerprint": UNKNOWN,
    }
    return from_plain(plain)


def write(
    outputs: Path, *overrides: str, leave: Callable = lambda config: False, **options: Any
) -> list[Result]:
    """Finish all runs of these overrides but those that `leave` names; the finished results."""
    done = [result(config, **options) for config in run_configs(overrides) if not leave(config)]
    for one in done:
        results.write(outputs, one)
    return done


def fail(outputs: Path, config: Mapping[str, Any], error: str) -> None:
    """A failed run's result file."""
    results.write(outputs, Failure(**surroundings(config), error=error))
