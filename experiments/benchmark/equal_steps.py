"""Ours and PEFT train to the same loss: equal weights, batches and steps, no dropout."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForSequenceClassification

from experiments.benchmark.limit import RANK, Step
from experiments.benchmark.stand_ins import SHAPES
from experiments.benchmark.training_turn import ALPHA

STEPS, LENGTH = 3, 12


def losses(weights: Path, shape: str) -> dict[str, float]:
    """Return the loss of ours and of PEFT's LoRA after equal steps from the same start.

    Args:
        weights: The folder of the stand-in model.
        shape: A key of SHAPES.
    """
    ours, theirs = Step(weights, shape, LENGTH), Step(weights, shape, LENGTH)
    theirs.batch = ours.batch
    theirs.train_instead(_peft_copy(ours.model, weights, shape))
    return {"loradrop": _trained(ours), "PEFT": _trained(theirs)}


def _peft_copy(model: nn.Module, weights: Path, shape: str) -> nn.Module:
    """PEFT's model with the values of ours, and as much of it frozen."""
    plain = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=2)
    targets = list(SHAPES[shape].target_modules)
    copy = get_peft_model(plain, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    parameters = {
        name.replace("base_model.model.", "")
        .replace("base_layer", "base")
        .replace(".default.weight", ""): parameter
        for name, parameter in copy.named_parameters()
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameters[name].copy_(parameter)
            parameters[name].requires_grad_(parameter.requires_grad)
    return copy


def _trained(step: Step) -> float:
    """The loss after STEPS steps without dropout."""
    for module in step.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    step.model.eval()  # attention reads its own dropout probability
    for _ in range(STEPS):
        step()
    with torch.no_grad():
        return float(step.model(**step.batch).loss)
