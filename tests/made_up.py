"""Result files of runs that were never run: whatever a test wants tables, figures and the status to show."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments import results
from experiments.config.sweep import run_configs

LAYERS = 12


def scores(config: Mapping[str, Any]) -> list[float]:
    """Of two epochs, between 0.5 and 1, the first one the better; the same for the same backbone, task, method and seed."""
    names = "-".join([*(config[group]["name"] for group in ("backbone", "task", "method")), str(config["seed"])])
    best = round(random.Random(names).uniform(0.6, 0.95), 4)
    return [best, best - 0.05]


def importance(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of 12 layers of two module types, by task and seed."""
    draw = random.Random(f"{config['task']['name']}-{config['seed']}-{config['method'].get('sample_ratio')}")
    values = {kind: {str(layer): draw.random() for layer in range(LAYERS)} for kind in ("query", "value")}
    shares = {kind: {layer: g / sum(layers.values()) for layer, g in layers.items()} for kind, layers in values.items()}
    sizes = {kind: dict.fromkeys(layers, 4096) for kind, layers in values.items()}
    return {"values": values, "normalized": shares, "parameters": sizes, "tokens": 100}


def result(config: Mapping[str, Any], primary: str = "accuracy", metrics: Callable = scores) -> dict[str, Any]:
    """A finished run's."""
    epochs = [{"epoch": i, "train_loss": 0.5, primary: score} for i, score in enumerate(metrics(config), 1)]
    kept = {kind: list(range(0, LAYERS, 2)) for kind in ("query", "value")}
    shares = "threshold" in config["method"]
    return {
        "schema": 1,
        "id": config["id"],
        "status": results.FINISHED,
        "config": {key: value for key, value in config.items() if key != "id"},
        "started": "2026-01-01T00:00:00+00:00",
        "versions": {},
        "hardware": {},
        "git_commit": None,
        "metrics": (epochs and {"primary": primary, "epochs": epochs, "best": epochs[0], "last": epochs[-1]}) or None,
        "parameters": {"adapter": 1000, "head": 10, "total": 10000, "lora_parameters": 2000 if shares else None},
        "importance": importance(config) if shares else None,
        "plan": {"kept": kept, "others": {}, "share": True} if shares else None,
        "seconds": {"load": 1.0, "prepare": 2.0, "fit": 57.0},
        "train_rows": 100,
        "evaluated_on": {"validation": 50},
        "notes": [],
        "data_fingerprint": "data",
        "weights_fingerprint": "weights",
    }


def write(outputs: Path, *overrides: str, leave: Callable = lambda config: False, **options: Any) -> list[dict[str, Any]]:
    """Finish all runs of these overrides but those that `leave` names; the finished results."""
    done = [result(config, **options) for config in run_configs(overrides) if not leave(config)]
    for one in done:
        results.write(outputs, one)
    return done


def fail(outputs: Path, config: Mapping[str, Any], error: str) -> None:
    """A failed run's result file."""
    keys = ("schema", "id", "config", "started", "versions", "hardware", "git_commit")
    failed = {key: result(config)[key] for key in keys} | {"status": results.FAILED, "error": error}
    path = results.run_folder(outputs, config["id"]) / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(failed))
