"""What the callbacks refuse before training, what they warn of, and which model is the best one of
a training.
"""

from __future__ import annotations

import pytest
from conftest import tiny_model
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
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import TrainerCallback

import loradrop


@pytest.mark.slow
def test_mistakes_are_said_before_training(tmp_path):
    with pytest.raises(ValueError, match="give one of threshold, parameter_ratio and num_layers"):
        loradrop.LoRADropTrainerCallback([])
    with pytest.raises(ValueError, match="give steps or epochs, or neither"):
        loradrop.LoRADropTrainerCallback([], steps=1, epochs=1, num_layers=1)
    with pytest.raises(ValueError, match="kept_init must be one of keep, fresh, got 'new'"):
        loradrop.LoRADropTrainerCallback([], num_layers=1, kept_init="new")
    with pytest.raises(
        ValueError, match="average_over must be one of tokens, examples, target_tokens, got 'mean'"
    ):
        loradrop.LoRADropTrainerCallback([], num_layers=1, average_over="mean")
    with pytest.raises(TypeError, match="batches must be an iterable of batches, got a single one"):
        loradrop.LoRADropTrainerCallback(rows()[0], num_layers=1)
    with pytest.raises(TypeError, match="batches must be an iterable of batches, got NoneType"):
        loradrop.LoRADropTrainerCallback(None, num_layers=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'joint'"):
        loradrop.LoRADropLightningCallback([], num_layers=1, joint=True)
    callback = loradrop.LoRADropTrainerCallback([], num_layers=1, epochs=1)
    with pytest.raises(
        ValueError, match="cannot be shared in the middle of a training in several processes"
    ):
        callback.begin(ours(), processes=2)
    with pytest.raises(ValueError, match="the model holds no LoRA"):
        Ordered(
            tiny_model(), arguments(tmp_path), train_dataset=rows(), callbacks=[callback]
        ).train()
    too_many = loradrop.LoRADropTrainerCallback([], num_layers=4)
    with pytest.raises(
        ValueError, match="num_layers must not exceed the 3 layers there are, got 4"
    ):
        Ordered(theirs(), arguments(tmp_path), train_dataset=rows(), callbacks=[too_many]).train()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "message"),
    [({"steps": 9}, "steps is 9, .* after 8:"), ({"epochs": 3}, "epochs is 3, .* 2:")],
)
def test_what_would_never_happen_is_refused(when, message, tmp_path):
    callback = loradrop.LoRADropTrainerCallback(DataLoader(rows(), BATCH), num_layers=1, **when)
    with pytest.raises(ValueError, match=message):
        Ordered(ours(), arguments(tmp_path), train_dataset=rows(), callbacks=[callback]).train()
    callback = loradrop.LoRADropLightningCallback(
        DataLoader(rows(), BATCH), "model", num_layers=1, **when
    )
    with pytest.raises(ValueError, match=message):
        lightning(tmp_path, 2, callback).fit(Module(ours()), DataLoader(rows(), BATCH))


def test_loras_that_could_not_be_shared_are_refused_before_training():
    ranks = tiny_model()
    loradrop.add_lora(ranks, rank={0: 2, 1: 4, 2: 4})
    biased = get_peft_model(
        tiny_model(), LoraConfig(r=4, target_modules=["query", "value"], bias="lora_only")
    )
    shapes = (
        r"query: LoRAs of different shapes cannot be shared: \[\(2, 32\), \(4, 32\), \(4, 32\)\]"
    )

    def begin(model, **selection):
        loradrop.LoRADropTrainerCallback([], **selection).begin(model)

    # a threshold of 0.9 keeps all three layers only where they count the same
    for settings in ({"threshold": 0.9}, {"num_layers": 1}, {"parameter_ratio": 0.8}):
        with pytest.raises(ValueError, match=shapes):
            begin(ranks, **settings)
        with pytest.raises(ValueError, match="trains the biases of its layers"):
            begin(biased, **settings, share=False)
        begin(ranks, **settings, share=False)
        begin(biased, **settings)
    for settings in ({"threshold": 1}, {"num_layers": 3}, {"parameter_ratio": 1}):
        begin(ranks, **settings)
        begin(biased, **settings, share=False)


def test_lightning_tries_a_few_steps_of_a_longer_training(tmp_path):
    callback = loradrop.LoRADropLightningCallback(
        DataLoader(rows(), BATCH), "model", num_layers=1, steps=3
    )
    with pytest.warns(UserWarning, match="training ended before"):
        lightning(tmp_path, 2, callback, fast_dev_run=1).fit(
            Module(ours()), DataLoader(rows(), BATCH)
        )
    assert callback.plan is None


@pytest.mark.slow
def test_another_model_is_measured_again_and_the_same_one_is_not(tmp_path):
    """Trials, folds, and a second training of a model that shares."""
    schedule = {"steps": 1, "num_layers": 1}
    trials = loradrop.LoRADropTrainerCallback(DataLoader(rows(), BATCH), **schedule)
    folds = loradrop.LoRADropLightningCallback(DataLoader(rows(), BATCH), "model", **schedule)

    def trial(model):
        options = arguments(tmp_path, max_steps=2)
        Ordered(model, options, train_dataset=rows(), callbacks=[trials]).train()

    def fold(model):
        lightning(tmp_path, 1, folds, limit_train_batches=2).fit(
            Module(model), DataLoader(rows(), BATCH)
        )

    for callback, train in ((trials, trial), (folds, fold)):
        found = []
        for model in (ours(), ours()):
            train(model)
            assert loradrop.plan_of(model) == callback.plan
            found.append(callback.importance)
            train(model)
            assert callback.importance is found[-1]
        assert found[0] is not found[1]


class Stop(TrainerCallback):
    """Early stopping, after the first step."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True


def test_a_training_that_stops_too_soon_is_told(tmp_path):
    callback = loradrop.LoRADropTrainerCallback(DataLoader(rows(), BATCH), num_layers=1, steps=3)
    trainer = Ordered(
        ours(), arguments(tmp_path), train_dataset=rows(), callbacks=[callback, Stop()]
    )
    with pytest.warns(
        UserWarning, match="training ended before its LoRAs were measured and shared"
    ):
        trainer.train()
    assert callback.plan is None


class Scored(Ordered):
    """Evaluations have these losses: the first, before sharing, is the best."""

    def evaluate(self, *args, **kwargs):
        self.seen = [*getattr(self, "seen", []), values(self.model)]
        metrics = {"eval_loss": (0.1, 0.5, 0.6)[len(self.seen) - 1]}
        self.log(metrics)
        return metrics


@pytest.mark.parametrize("make", [ours, theirs])
def test_the_best_model_is_one_of_those_after_sharing(make, tmp_path):
    callback = loradrop.LoRADropTrainerCallback(DataLoader(rows(), BATCH), num_layers=1, steps=5)
    settings = {
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
        "num_train_epochs": 3,
    }
    options = arguments(tmp_path, metric_for_best_model="eval_loss", **settings)
    trainer = Scored(
        make(), options, train_dataset=rows(), eval_dataset=rows(), callbacks=[callback]
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-8")
    assert loradrop.plan_of(trainer.model) == callback.plan
    same(values(trainer.model), trainer.seen[1])
