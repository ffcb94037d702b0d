"""What a run's module decides: the best epoch, and which parameters weight decay spares."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_model
from helpers.methods import COMMON, vera

from loradrop.backbones import freeze_encoder
from loradrop.methods.lora import LoRA
from loradrop.methods.tied_lora import TiedLoRA
from loradrop.training.module import RunModule
from loradrop.training.recipe import Recipe

RECIPE = Recipe(
    learning_rate=1e-3,
    batch_size=4,
    epochs=1,
    warmup_ratio=0.1,
    weight_decay=0.3,
    max_length=16,
    max_grad_norm=1.0,
    lora_alpha=8,
)


class Scored(RunModule):
    """A module whose epochs have these scores."""

    def __init__(self, model, scores, method=None):
        task = SimpleNamespace(primary="accuracy", score=lambda _: {"accuracy": scores.pop(0)})
        super().__init__(model, SimpleNamespace(task=task, world_size=1), RECIPE, method)
        self.epoch = 0

    @property
    def current_epoch(self):
        return self.epoch

    def collected(self):
        return {}

    def log(self, *args, **kwargs): ...

    def log_dict(self, *args, **kwargs): ...

    def score_epochs(self, epochs):
        for self.epoch in range(epochs):
            self.on_validation_epoch_end()
        return self.best["epoch"]


def adapted(method):
    model = freeze_encoder(tiny_model())
    method.install(model)
    return model


@pytest.mark.parametrize(
    ("scores", "best"), [([0.5, 0.7, 0.7, 0.6], 2), ([0.5, 0.5], 1), ([0.1, 0.2, 0.3], 3)]
)
def test_the_best_epoch_is_the_first_of_the_highest_score(scores, best):
    module = Scored(adapted(LoRA(**COMMON)), list(scores))
    assert module.score_epochs(len(scores)) == best
    assert module.best["score"] == max(scores)


@pytest.mark.parametrize("method", [TiedLoRA(**COMMON, vectors=True), vera(), LoRA(**COMMON)])
def test_weight_decay_spares_vectors_alone(method):
    module = Scored(adapted(method), [])
    module._trainer = SimpleNamespace(estimated_stepping_batches=10)
    groups = module.configure_optimizers()["optimizer"].param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    trained = [p for p in module.model.parameters() if p.requires_grad]
    assert set(decays) == {id(p) for p in trained}
    assert {p.dim() for p in trained} == {1, 2}
    assert all(decays[id(p)] == (0.3 if p.dim() == 2 else 0.0) for p in trained)


def test_the_best_epoch_s_values_are_copies():
    module = Scored(adapted(LoRA(**COMMON)), [0.9])
    module.score_epochs(1)
    assert module.best["state"].keys() == {
        n for n, p in module.model.named_parameters() if p.requires_grad
    }
    before = module.best["state"]["classifier.out_proj.bias"].clone()
    with torch.no_grad():
        module.model.classifier.out_proj.bias.add_(1)
    assert torch.equal(module.best["state"]["classifier.out_proj.bias"], before)
