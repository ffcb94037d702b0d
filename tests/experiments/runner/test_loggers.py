"""W&B offline: one run for each run of a sweep, finished also after an error, with importances and
final numbers, without what tells whose machine it was.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, clean_environment, run_module

from experiments.config.identity import group_id, run_id

SMALL = (
    "trainer.progress_bar=false",
    "trainer.num_threads=1",
    "task=mini_sentiment",
    "task.train_size=128",
    "task.validation_size=32",
    "recipe.epochs=1",
    "recipe.learning_rate=1e-3",
    "logger=wandb",
)
# experiments.run whose W&B is killed after the first step of fine-tuning with seed 0
KILLED = """
import os, signal, subprocess
from experiments.run import main
from loradrop.training.module import RunModule

step = RunModule.training_step

def killing_step(self, *args):
    if self.curve == "train" and self.global_step == 1 and self.data.seeds.run == 0:
        found = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "wandb-core"],
                               capture_output=True, text=True).stdout.split()
        assert len(found) == 1, found
        os.kill(int(found[0]), signal.SIGKILL)
    return step(self, *args)

RunModule.training_step = killing_step
main()
"""


def logged(folder: Path) -> bytes:
    """All that W&B would send of an offline run but pictures, whose bytes may spell any word."""
    return b"".join(
        path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "logs" not in path.parts and path.suffix != ".png"
    )


@pytest.mark.slow
def test_one_offline_run_for_each_run_of_a_sweep(tmp_path):
    done = run_module("experiments.run", "-m", *SMALL, "method=lora,lora_drop", outputs=tmp_path)
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    texts = {folder.name.partition("-tiny")[2]: logged(folder) for folder in folders}
    ids = [
        json.loads(path.read_text())["id"] for path in sorted(tmp_path.glob("runs/*/result.json"))
    ]
    for id in ids:  # its own, and in no other run's file
        assert sum(id.encode() in text for text in texts.values()) == 1
        assert id.removeprefix("tiny") in texts
    drop = next(text for name, text in texts.items() if "-lora_drop-" in name)
    curves = ("validation/accuracy", "train/loss", "stage1/loss")
    charts = ("media/images/importance", "score", "parameters of the adapter")
    summary = ("best/accuracy", "parameters/adapter", "seconds/fit", "data_fingerprint")
    for name in (*curves, *charts, *summary):
        assert name.encode() in drop, name
    files = [path.read_bytes() for path in tmp_path.glob("runs/*/*.[jy]*")]
    for secret in (platform.node(), str(Path.home()), str(ROOT), str(tmp_path)):
        word = re.compile(rb"(?<!\w)" + re.escape(secret.encode()) + rb"(?!\w)")
        assert not any(word.search(text) for text in (*texts.values(), *files)), secret


def test_a_group_is_a_row_of_the_table(compose):
    one = compose("method=lora_drop", "seed=0")
    seed, threshold = compose("method=lora_drop", "seed=1"), compose("method=lora_drop", "seed=0")
    threshold.method.threshold = 0.5
    assert group_id(one) == group_id(seed) != group_id(threshold)
    assert run_id(one) != run_id(seed)


@pytest.mark.slow
def test_training_goes_on_when_wandb_is_killed(tmp_path):
    command = [sys.executable, "-c", KILLED, "-m", *SMALL, "method=lora", "seed=0,1"]
    done = subprocess.run(
        [*command, f"paths.outputs={tmp_path}"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("W&B is gone") == 1 and "goes on without it" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    states = [json.loads(path.read_text())["status"] for path in tmp_path.glob("runs/*/*.json")]
    assert states == ["finished"] * 2
    (second,) = tmp_path.glob("wandb/offline-run-*-s1-*")  # a new process
    assert b"best/accuracy" in logged(second)


@pytest.mark.slow
def test_a_folder_that_wandb_cannot_write_to_is_named_first(tmp_path):
    (tmp_path / "wandb").touch()
    done = run_module("experiments.run", *SMALL, outputs=tmp_path)
    assert done.returncode == 1 and f"cannot write to {tmp_path / 'wandb'}" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob("cache/stage1/*"))


@pytest.mark.slow
def test_a_key_is_asked_for_in_a_message_not_a_prompt(tmp_path):
    env = {"WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    done = run_module(
        "experiments.run", *SMALL, "logger.mode=online", "method=lora", outputs=tmp_path, **env
    )
    assert (
        done.returncode == 1 and "needs a W&B key" in done.stderr and "Traceback" not in done.stderr
    )
