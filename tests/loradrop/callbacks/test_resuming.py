"""The plan travels with the checkpoint, wherever that lies; without one the callbacks say what they
do.
"""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import pytorch_lightning as pl
import torch
from helpers.callbacks import (
    BATCH,
    Module,
    Ordered,
    arguments,
    lightning,
    ours,
    rows,
    same,
    theirs,
    values,
)
from torch.utils.data import DataLoader

import loradrop

pytestmark = pytest.mark.slow  # whole trainings


def trainer(folder, make, when, share=True, callback=True, **settings):
    schedule = {"num_layers": 1, "share": share, **when}
    callbacks = (
        [loradrop.LoRADropTrainerCallback(DataLoader(rows(), BATCH), **schedule)]
        if callback
        else []
    )
    options = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 3, **settings}
    return Ordered(make(), arguments(folder, **options), train_dataset=rows(), callbacks=callbacks)


@pytest.mark.parametrize(
    ("make", "share", "when", "restore"),
    [
        (ours, True, {"epochs": 1}, False),
        (theirs, True, {"steps": 6}, True),
        (theirs, False, {"epochs": 2}, False),
    ],
)
def test_a_checkpoint_that_was_moved(make, share, when, restore, tmp_path, monkeypatch):
    whole = trainer(tmp_path / "whole", make, when, share)
    whole.train()
    moved = tmp_path / "elsewhere" / "checkpoint-9"
    shutil.copytree(tmp_path / "whole" / "checkpoint-9", moved)
    shutil.rmtree(tmp_path / "whole")
    monkeypatch.setattr("loradrop.callbacks.base.measure", None)  # nothing is measured again
    again = trainer(
        tmp_path / "new", make, when, share, restore_callback_states_from_checkpoint=restore
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*plan|.*LoRAs")
        again.train(resume_from_checkpoint=str(moved))
    assert loradrop.plan_of(again.model) == loradrop.plan_of(whole.model)
    same(values(again.model), values(whole.model))
    # and from what the second training wrote
    third = trainer(tmp_path / "third", make, when, share)
    third.train(resume_from_checkpoint=str(tmp_path / "new" / "checkpoint-11"))
    same(values(third.model), values(whole.model))


def test_the_weights_of_a_checkpoint_lie_beside_their_plan(tmp_path):
    one = trainer(tmp_path, theirs, {"steps": 6}, max_steps=7)
    one.train()
    assert not (tmp_path / "checkpoint-5" / "plan.json").exists()
    state = json.loads((tmp_path / "checkpoint-5" / "trainer_state.json").read_text())
    assert "loradrop_plan" not in state["stateful_callbacks"]
    loaded = loradrop.from_pretrained(theirs().unload(), tmp_path / "checkpoint-7", as_peft=True)
    assert loradrop.plan_of(loaded) == loradrop.plan_of(one.model)


def test_a_checkpoint_from_before_sharing(tmp_path):
    whole = trainer(tmp_path / "whole", ours, {"steps": 6})
    whole.train()
    again = trainer(tmp_path / "again", ours, {"steps": 6})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*plan|.*LoRAs")
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert loradrop.plan_of(again.model) == loradrop.plan_of(whole.model)
    same(values(again.model), values(whole.model))
    # by the callback and the model that have shared already
    with pytest.raises(
        ValueError,
        match="from before LoRAs were shared, and the model shares already: resume with a new",
    ):
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))


def test_a_checkpoint_without_a_plan_is_told(tmp_path):
    trainer(tmp_path / "plain", ours, {}, callback=False, max_steps=9).train()
    again = trainer(tmp_path / "again", ours, {"steps": 6})
    with pytest.warns(
        UserWarning,
        match="checkpoint of step 9 holds no plan, though it was made after the 6 steps after",
    ):
        again.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-9"))
    assert loradrop.plan_of(again.model).others
    later = trainer(tmp_path / "later", ours, {"epochs": 3})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*plan|.*LoRAs")
        later.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-9"))


def fit(folder, epochs, callback=True, schedule=None, **settings):
    schedule = schedule or {"epochs": 1}
    made = loradrop.LoRADropLightningCallback(
        DataLoader(rows(), BATCH), "model", num_layers=1, **schedule
    )
    module = Module(ours())
    trainer = lightning(folder, epochs, made if callback else TrainingOnly())
    trainer.fit(module, DataLoader(rows(), BATCH), **settings)
    return module, trainer


class TrainingOnly(pl.Callback):
    """A callback that does nothing."""


def test_lightning_without_a_plan(tmp_path):
    fit(tmp_path, 2, callback=False)[1].save_checkpoint(tmp_path / "two.ckpt")
    with pytest.warns(
        UserWarning,
        match="checkpoint of step 8 holds no plan, though it was made after the 1 epochs after",
    ):
        again, _ = fit(tmp_path, 3, ckpt_path=tmp_path / "two.ckpt")
    assert loradrop.plan_of(again.model).others
    whole, trained = fit(tmp_path, 3, schedule={"epochs": 2})
    with pytest.raises(
        ValueError, match="from before LoRAs were shared, and the model shares already"
    ):
        trained.fit(whole, DataLoader(rows(), BATCH), ckpt_path=tmp_path / "two.ckpt")


def test_lightning_goes_on_after_sharing_at_the_end(tmp_path, monkeypatch):
    """What was shared at the end of one training stays so in a longer one."""
    first, trained = fit(tmp_path, 1, schedule={"shared_init": "first"})
    trained.save_checkpoint(tmp_path / "end.ckpt")
    plan = loradrop.plan_of(first.model)
    assert any(plan.others.values())
    monkeypatch.setattr("loradrop.callbacks.base.measure", None)
    again, _ = fit(tmp_path, 2, schedule={"shared_init": "first"}, ckpt_path=tmp_path / "end.ckpt")
    assert loradrop.plan_of(again.model) == plan
    assert all(torch.isfinite(value).all() for value in values(again.model).values())
