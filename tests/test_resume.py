"""A run that is cut off anywhere and taken up again ends with the same epochs and the same weights, bit for bit."""

from __future__ import annotations

import pytest
import torch
from hydra import compose, initialize_config_dir

from experiments.config import CONF
from experiments.setup import Setup
from experiments.stages import CHECKPOINT, RunProbe, fit
from loradrop.modules import SequenceModule

STEPS = 4  # of an epoch; there are two


class CutOff(Exception):
    """Stands for kill -9."""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    small = ["task.train_size=128", "task.validation_size=32", "recipe.batch_size=32", "recipe.epochs=2", "method=lora"]
    quick = ["trainer.num_threads=1", "trainer.checkpoint_minutes=0", "trainer.progress_bar=false", "method.dropout=0.1"]
    outputs = tmp_path_factory.mktemp("outputs")
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("run", [*small, *quick, f"paths.outputs={outputs}", "paths.models=null", "paths.data=null"])


def trained(config, folder):
    setup = Setup(config)
    assert len(setup.data.train_loader()) == STEPS
    module, _ = fit(setup, folder, None, RunProbe(setup, folder / "stage1"))
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


def test_a_checkpoint_of_other_data_is_not_taken_up(config, uninterrupted, tmp_path, capsys):
    other = config.copy()
    other.task.data_seed = 99
    trained(other, tmp_path)
    assert (tmp_path / CHECKPOINT).exists()
    assert trained(config, tmp_path)[0] == uninterrupted[0]
    assert "is of other data" in capsys.readouterr().out
