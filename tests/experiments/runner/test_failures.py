"""A failed run is recorded without places and keys; lack of memory names the step that took it."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
import torch

from experiments import results
from experiments.config.schema import CONF, UserError
from experiments.runner.execution import run
from experiments.runner.failures import anonymous, reason
from loradrop.importance import measurement
from loradrop.training.module import SequenceModule


def test_no_home_no_host_and_no_key(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    text = f"""File "{Path(CONF).parent}/experiments/run.py"
    {tmp_path}/data/RTE/train.tsv {tmp_path}/database {Path.home()}/x on {platform.node()}
    key 0123456789abcdef"""
    found = anonymous(text, {"data": str(tmp_path / "data"), "models": None})
    assert (
        found
        == f"""File "./experiments/run.py"
    <paths.data>/RTE/train.tsv {tmp_path}/database ~/x on <host>
    key <WANDB_API_KEY>"""
    )


def out_of_memory(*arguments, **options):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2.00 GiB")


def in_training(curve):
    original = SequenceModule.training_step

    def step(self, *arguments):
        return out_of_memory() if self.curve == curve else original(self, *arguments)

    return SequenceModule, "training_step", step


STEPS = {
    "stage 1": (in_training("stage1"), "method.sample_batch_size"),
    "measuring": ((measurement, "hooked", out_of_memory), "recipe.batch_size"),
    "training": (in_training("train"), "recipe.batch_size"),
    "evaluation": ((SequenceModule, "split_name", out_of_memory), "recipe.batch_size"),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_lack_of_memory_names_step_and_setting(compose, monkeypatch, tmp_path, step):
    patch, setting = STEPS[step]
    monkeypatch.setattr(*patch)
    small = ["task.train_size=32", "task.validation_size=32", "method.sample_ratio=1"]
    config = compose(*small, "trainer.progress_bar=false", f"paths.outputs={tmp_path}")
    expected = f"failed: out of memory in {step}: lower {setting} or recipe.max_length, or set "
    with pytest.raises(UserError, match=expected):
        run(config)
    (id,) = results.store.ids(tmp_path)
    error = results.read(tmp_path, id).error
    assert "Tried to allocate" in error and str(tmp_path) not in error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("2 GB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_lack_of_memory_has_several_errors(error):
    assert reason(error).startswith("out of memory in the preparation: lower recipe.batch_size or")


def test_other_errors_are_said_in_one_line():
    assert reason(ValueError("no\nmemory")) == "ValueError: no memory"
