"""A run that is cut off anywhere and taken up again ends with the same epochs and the same weights,
bit for bit.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir

from experiments.config.schema import CONF
from experiments.config.validation import check
from experiments.runner.components import RunComponents
from experiments.runner.probe import RunProbe
from experiments.runner.trainer import CHECKPOINT
from experiments.runner.training import fit
from loradrop.training.module import SequenceModule

pytestmark = pytest.mark.slow

STEPS = 4  # of an epoch; there are two


class CutOff(Exception):
    """Stands for kill -9."""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    small = [
        "task.train_size=128",
        "task.validation_size=32",
        "recipe.batch_size=32",
        "recipe.epochs=2",
        "method=lora",
    ]
    quick = [
        "trainer.num_threads=1",
        "trainer.checkpoint_minutes=0",
        "trainer.progress_bar=false",
        "method.dropout=0.1",
    ]
    outputs = tmp_path_factory.mktemp("outputs")
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose(
            "run",
            [*small, *quick, f"paths.outputs={outputs}", "paths.models=null", "paths.data=null"],
        )


def trained(config, folder):
    components = RunComponents(check(config))
    assert len(components.data.train_loader()) == STEPS
    module, _ = fit(components, folder, None, RunProbe(components, folder / "stage1"))
    return module.epochs, module.best


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory):
    return trained(config, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stage", ["training", "validation"])
@pytest.mark.parametrize("at", range(2 * STEPS))
def test_cut_off_and_taken_up_again(config, uninterrupted, tmp_path, monkeypatch, stage, at):
    """In training step `at`, or in the validation that follows it."""
    if stage == "validation" and at % STEPS != STEPS - 1:
        pytest.skip("no validation there")
    name = f"{stage}_step"
    original = getattr(SequenceModule, name)

    def step(self, *args):
        if self.global_step == at + (stage == "validation"):
            raise CutOff
        return original(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(SequenceModule, name, step)
        with pytest.raises(CutOff):
            trained(config, tmp_path)
    assert (tmp_path / CHECKPOINT).exists() == (at > 0)
    epochs, best = trained(config, tmp_path)
    assert epochs == uninterrupted[0] and best["epoch"] == uninterrupted[1]["epoch"]
    for key, value in uninterrupted[1]["state"].items():
        assert torch.equal(best["state"][key], value)


# what a method has decided or gathered, but trains not, goes on as well
STATEFUL = {
    "lora_drop": ["method.sample_ratio=0.5", "method.sample_epochs=1", "method.threshold=0.5"],
    "sparse_adapter": ["method.scope=matrix"],
    "prilora": ["method.interval=3"],
    "prilora without regrowth": ["method.interval=3", "method.regrow=false"],
    "adalora": ["method.interval=1"],
}


@pytest.mark.parametrize("case", STATEFUL)
def test_what_a_method_remembers_is_taken_up_again(config, tmp_path, monkeypatch, case):
    name = case.split()[0]
    with initialize_config_dir(CONF, version_base="1.3"):
        overrides = [f"method={name}", *STATEFUL[case]]
        other = compose("run", [*overrides, "paths.models=null", "paths.data=null"])
    other.recipe = config.recipe
    other.task = config.task
    other.trainer = config.trainer
    other.paths = config.paths
    whole = trained(other, tmp_path / "whole")
    original = SequenceModule.training_step

    def step(self, *args):
        if self.trainer.max_epochs == 2 and self.global_step == STEPS + 1:
            raise CutOff
        return original(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(SequenceModule, "training_step", step)
        with pytest.raises(CutOff):
            trained(other, tmp_path / "cut")
    assert (tmp_path / "cut" / CHECKPOINT).exists()
    epochs, best = trained(other, tmp_path / "cut")
    assert (
        epochs == whole[0]
        and best["epoch"] == whole[1]["epoch"]
        and set(best["state"]) == set(whole[1]["state"])
    )
    for key, value in whole[1]["state"].items():
        assert torch.equal(best["state"][key], value)


@pytest.mark.parametrize("at", [1, 3, "measuring"])
def test_stage1_goes_on_where_it_was_cut_off(config, tmp_path, monkeypatch, at):
    """In its training step `at`, or while it measures."""
    other = config.copy()
    with initialize_config_dir(CONF, version_base="1.3"):
        settings = ["method.sample_ratio=0.5", "method.sample_epochs=2", "recipe.epochs=0"]
        drop = compose("run", ["method=lora_drop", *settings, "paths.models=null"])
    other.method, other.recipe.epochs = drop.method, 0

    def measured(folder):
        components = RunComponents(check(other))
        fit(components, folder, None, RunProbe(components, folder / "stage1", folder))
        return components.method.importance, components.seconds

    whole = measured(tmp_path / "whole")[0]
    steps = []
    original = SequenceModule.training_step

    def step(self, *args):
        if len(steps) == at:
            raise CutOff
        steps.append(self.global_step)
        return original(self, *args)

    monkeypatch.setattr(SequenceModule, "training_step", step)
    with monkeypatch.context() as patched, pytest.raises((CutOff, TypeError)):
        if at == "measuring":
            patched.setattr("loradrop.methods.lora_drop.measure", None)  # TypeError
        measured(tmp_path / "cut")
    at = None
    assert measured(tmp_path / "cut")[0] == whole
    assert steps == list(range(2 * STEPS // 2))  # none was taken twice
    assert not list((tmp_path / "cut").rglob("*.ckpt"))


def damaged(checkpoint):
    whole = bytearray(checkpoint.read_bytes())
    whole[len(whole) // 2] ^= 1  # among the numbers
    checkpoint.write_bytes(whole)


def of_an_older_library(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["run"]["identity"] = content["run"]["identity"].replace(pl.__version__, "2.5.0")
    content["pytorch-lightning_version"] = "2.5.0"
    del content["loops"]
    torch.save(content, checkpoint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged, "is damaged (its content does not match its checksum): starting from"),
        (of_an_older_library, "is of other data, weights or library versions: starting from"),
        (lambda checkpoint: checkpoint.write_bytes(b""), "is damaged ("),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_named_and_training_starts_again(
    config, uninterrupted, tmp_path, capsys, change, message
):
    trained(config, tmp_path)
    change(tmp_path / CHECKPOINT)
    assert trained(config, tmp_path)[0] == uninterrupted[0]
    assert f"{tmp_path / CHECKPOINT} {message}" in capsys.readouterr().out


def test_a_full_disk_keeps_the_last_checkpoint_and_the_training(
    config, uninterrupted, tmp_path, monkeypatch, capsys
):
    """torch.save stops half-way, at the second checkpoint and later ones."""
    original, saved = torch.save, []

    def save(content, file):
        if saved:
            Path(file).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(content, file)
        saved.append(Path(tmp_path / CHECKPOINT))

    monkeypatch.setattr(torch, "save", save)
    assert trained(config, tmp_path)[0] == uninterrupted[0]
    assert "no checkpoint was written, training goes on: [Errno 28]" in capsys.readouterr().out
    monkeypatch.undo()
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["run"]["step"] == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [CHECKPOINT]
    assert trained(config, tmp_path)[0] == uninterrupted[0]  # from there


def test_a_checkpoint_of_other_data_is_not_taken_up(config, uninterrupted, tmp_path, capsys):
    other = config.copy()
    other.task.data_seed = 99
    trained(other, tmp_path)
    assert (tmp_path / CHECKPOINT).exists()
    assert trained(config, tmp_path)[0] == uninterrupted[0]
    assert "is of other data" in capsys.readouterr().out
