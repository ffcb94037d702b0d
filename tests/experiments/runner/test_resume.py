"""A run that is cut off anywhere and taken up again ends with the same epochs and the same weights,
bit for bit.
"""

from __future__ import annotations

import pytest
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
    other.recipe, other.task, other.trainer, other.paths = (
        config.recipe,
        config.task,
        config.trainer,
        config.paths,
    )
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


def test_a_checkpoint_of_other_data_is_not_taken_up(config, uninterrupted, tmp_path, capsys):
    other = config.copy()
    other.task.data_seed = 99
    trained(other, tmp_path)
    assert (tmp_path / CHECKPOINT).exists()
    assert trained(config, tmp_path)[0] == uninterrupted[0]
    assert "is of other data" in capsys.readouterr().out
