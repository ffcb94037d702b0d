"""The callbacks of transformers.Trainer and of Lightning against a plain loop of the same data, in
the same order.
"""

from __future__ import annotations

import pytest
import torch
from helpers.callbacks import (
    BATCH,
    SAMPLE,
    Module,
    Ordered,
    arguments,
    lightning,
    optimiser,
    ours,
    rows,
    same,
    theirs,
    values,
)
from helpers.configs import composed
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from transformers import (
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerControl,
    TrainerState,
)

import loradrop
from experiments.config.validation import check, instantiate_group
from experiments.runner.components import RunComponents
from experiments.runner.probe import RunProbe
from loradrop.importance.measurement import uniform
from loradrop.lora.inject import lora_modules


def train(model, loader, epochs, adam):
    model.train()
    for _ in range(epochs):
        for batch in loader:
            adam.zero_grad()
            model(**batch).loss.backward()
            adam.step()


def plain(epochs_before, epochs_after):
    """Train, measure, select, share and go on, in a plain loop: (importance, plan, trained values
    by name).
    """
    model, loader = ours(), DataLoader(rows(), BATCH)
    adam = optimiser(model)
    train(model, loader, epochs_before, adam)
    importance = loradrop.measure(model, loader)
    plan = loradrop.select(importance, num_layers=1)
    shared = [p for p in model.parameters() if p.requires_grad]
    loradrop.share(model, plan)
    for parameter in shared:  # what is gone has no gradient any more
        if not any(parameter is other for other in model.parameters()):
            parameter.grad = None
    train(model, loader, epochs_after, adam)
    return importance, plan, values(model)


def flat(importance):
    return {(kind, i): g for kind, layers in importance.values.items() for i, g in layers.items()}


@pytest.mark.slow
@pytest.mark.parametrize("when", [{"epochs": 1}, {"steps": SAMPLE // BATCH}])
def test_in_the_middle_of_a_training(when, tmp_path):
    importance, plan, expected = plain(1, 1)
    for make in (ours, theirs):
        callback = loradrop.LoRADropTrainerCallback(DataLoader(rows(), BATCH), num_layers=1, **when)
        trainer = Ordered(make(), arguments(tmp_path), train_dataset=rows(), callbacks=[callback])
        trainer.train()
        assert flat(callback.importance) == pytest.approx(flat(importance), rel=1e-5)
        assert callback.plan == plan == loradrop.plan_of(trainer.model)
        same(values(trainer.model), expected)
    callback = loradrop.LoRADropLightningCallback(
        DataLoader(rows(), BATCH), attribute="model", num_layers=1, **when
    )
    module = Module(ours())
    lightning(tmp_path, 2, callback).fit(module, DataLoader(rows(), BATCH))
    assert flat(callback.importance) == pytest.approx(flat(importance), rel=1e-5)
    same(values(module.model), expected)


@pytest.mark.slow
def test_on_a_sample_first_and_then_on_everything(tmp_path):
    """The paper's procedure: two trainings, LoRAs starting afresh in the second."""
    model, start = theirs(), values(theirs())
    callback = loradrop.LoRADropTrainerCallback(
        DataLoader(rows(8), BATCH), threshold=0.5, kept_init="fresh"
    )
    Ordered(model, arguments(tmp_path), train_dataset=rows(8), callbacks=[callback]).train()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == callback.plan.parameters
    assert all(value.eq(0).all() for value in start.values()) and all(
        value.eq(0).all() for value in values(model).values()
    )
    assert all(g > 0 for g in flat(callback.importance).values())
    Ordered(model, arguments(tmp_path), train_dataset=rows()).train()
    assert loradrop.plan_of(model).parameters == callback.plan.parameters
    assert all(value.ne(0).any() for value in values(model).values())


@pytest.mark.slow
@pytest.mark.parametrize(("make", "share"), [(ours, True), (theirs, True), (theirs, False)])
def test_an_interrupted_training_goes_on_with_the_plan(make, share, tmp_path):
    def trainer(folder, **settings):
        callback = loradrop.LoRADropTrainerCallback(
            DataLoader(rows(), BATCH), epochs=1, num_layers=1, share=share
        )
        options = arguments(folder, save_strategy="epoch", num_train_epochs=3, **settings)
        return Ordered(make(), options, train_dataset=rows(), callbacks=[callback])

    whole = trainer(tmp_path / "whole")
    whole.train()
    again = trainer(tmp_path / "whole")
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-8"))
    assert loradrop.plan_of(again.model) == loradrop.plan_of(whole.model)
    same(values(again.model), values(whole.model))


def test_lightning_goes_on_with_the_plan(tmp_path):
    def fit(epochs, **settings):
        callback = loradrop.LoRADropLightningCallback(
            DataLoader(rows(), BATCH), "model", epochs=1, num_layers=1
        )
        module, trainer = Module(ours()), lightning(tmp_path, epochs, callback)
        trainer.fit(module, DataLoader(rows(), BATCH), **settings)
        return module, trainer

    whole, _ = fit(3)
    fit(2)[1].save_checkpoint(tmp_path / "two.ckpt")
    again, _ = fit(3, ckpt_path=tmp_path / "two.ckpt")
    assert loradrop.plan_of(again.model) == loradrop.plan_of(whole.model)
    same(values(again.model), values(whole.model))


class Reseeded(Trainer):
    """Takes our loader's batches, and random numbers of a step from (seed, step) as our own runs
    do.
    """

    def get_train_dataloader(self):
        self.train_dataset.set_epoch = self.train_dataset.sampler.set_epoch
        return self.train_dataset

    def training_step(self, *args, **kwargs):
        torch.manual_seed(1_000_003 * self.args.seed + self.state.global_step)
        return super().training_step(*args, **kwargs)


@pytest.mark.slow
def test_peft_and_trainer_reach_the_importances_of_our_own_runs(tmp_path):
    """On a built-in model and task, dropout, warm-up, clipping and a head that trains included."""
    components = RunComponents(
        check(composed(tmp_path, "method=lora_drop", "task.train_size=320", "seed=2"))
    )
    task = components.data.task
    recipe = components.recipe
    rows = components.data.of_rows(components.data.sample(0.1))
    torch.manual_seed(2)
    base, _ = instantiate_group("backbone", components.config.backbone).load(task, None)
    config = LoraConfig(
        r=8,
        lora_alpha=recipe.lora_alpha,
        target_modules=["query", "value"],
        modules_to_save=["classifier"],
    )
    model = get_peft_model(base, config)
    for name, module in lora_modules(components.model).items():
        model.base_model.model.get_submodule(name).lora_A["default"].weight.data.copy_(
            module.lora_A.data
        )
    components.method.prepare(components.model, RunProbe(components, tmp_path))
    settings = {
        "num_train_epochs": 3,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": "linear",
        "seed": 2,
    }
    settings |= {
        "warmup_steps": recipe.warmup_ratio,
        "max_grad_norm": recipe.max_grad_norm,
        "adam_epsilon": 1e-8,
    }
    settings["weight_decay"] = recipe.weight_decay
    callback = loradrop.LoRADropTrainerCallback(rows.ordered_train_loader(), threshold=0.9)
    trainer = Reseeded(
        model,
        arguments(tmp_path, **settings),
        train_dataset=rows.train_loader(),
        callbacks=[callback],
    )
    trainer.train()
    assert trainer.state.global_step == 3 * 2
    for kind, layers in components.method.importance.normalized.items():
        assert callback.importance.normalized[kind] == pytest.approx(layers, abs=1e-5)
    assert callback.plan == components.method.plan


def test_a_checkpoint_whose_stack_has_lost_all_its_lora_loads(tmp_path):
    """What is left of an encoder-decoder has shorter names of module types."""
    size = {"vocab_size": 16, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2}

    def make():
        return T5ForConditionalGeneration(T5Config(**size, decoder_start_token_id=0))

    model = make()
    loradrop.add_lora(model, rank=2)
    importance = uniform(model)
    for kind, layers in importance.values.items():
        layers.update(dict.fromkeys(layers, 1.0 if kind.startswith("encoder") else 1e-6))
    callback = loradrop.LoRADropTrainerCallback([], threshold=0.9)
    callback.plan = loradrop.select(
        importance, threshold=0.9, across_module_types=True, share=False
    )
    loradrop.share(model, callback.plan)
    loradrop.save_pretrained(model, tmp_path / "checkpoint-1")
    options, state = arguments(tmp_path), TrainerState(global_step=1)
    callback.on_save(options, state, TrainerControl(), model=model)
    loaded = loradrop.from_pretrained(make(), tmp_path / "checkpoint-1")
    assert loradrop.plan_of(loaded) == loradrop.plan_of(model)
    assert loradrop.plan_of(loaded).lora_parameters == callback.plan.lora_parameters
