"""W&B offline: one run for each run of a sweep, finished also after an error, with importances and
final numbers.
"""

from __future__ import annotations

import json

import pytest
from conftest import run_module

pytestmark = pytest.mark.slow

SMALL = (
    "trainer.progress_bar=false",
    "task=mini_sentiment",
    "task.train_size=128",
    "task.validation_size=32",
    "recipe.epochs=1",
    "recipe.learning_rate=1e-3",
    "logger=wandb",
)


def test_one_offline_run_for_each_run_of_a_sweep(tmp_path):
    done = run_module("experiments.run", "-m", *SMALL, "method=lora,lora_drop", outputs=tmp_path)
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    texts = [b"".join(path.read_bytes() for path in folder.glob("*.wandb")) for folder in folders]
    ids = [
        json.loads(path.read_text())["id"] for path in sorted(tmp_path.glob("runs/*/result.json"))
    ]
    for id in ids:  # its own, and in no other run's file
        assert sum(id.encode() in text for text in texts) == 1
    drop = next(text for text in texts if b"-lora_drop-" in text)
    for logged in (
        b"validation/accuracy",
        b"train/loss",
        b"importance/query",
        b"best/accuracy",
        b"parameters/adapter",
    ):
        assert logged in drop


def test_a_key_is_asked_for_in_a_message_not_a_prompt(tmp_path):
    env = {"WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    done = run_module(
        "experiments.run", *SMALL, "logger.mode=online", "method=lora", outputs=tmp_path, **env
    )
    assert (
        done.returncode == 1 and "needs a W&B key" in done.stderr and "Traceback" not in done.stderr
    )
