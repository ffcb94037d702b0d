"""Methods beside LoRA's family, installed and trained."""

from __future__ import annotations

import torch
from conftest import FAMILIES, tiny_model

from loradrop.heads import freeze_encoder
from loradrop.methods.adalora import AdaLoRA
from loradrop.methods.bitfit import BitFit
from loradrop.methods.houlsby import Houlsby
from loradrop.methods.last_layers import LastLayers
from loradrop.methods.prefix_tuning import PrefixTuning
from loradrop.methods.prompt_tuning import PromptTuning

METHODS = {
    "bitfit": (BitFit, {"biases": "all"}),
    "last_layers": (LastLayers, {"fraction": 0.25}),
    "houlsby": (
        Houlsby,
        {"bottleneck": 5, "activation": "gelu", "init_std": 0.01, "target_modules": None},
    ),
    "adalora": (
        AdaLoRA,
        {
            "init_rank": 3,
            "target_rank": 2,
            "alpha": 16,
            "dropout": 0.0,
            "target_modules": "all-linear",
        }
        | {
            "warmup_ratio": 0.1,
            "final_ratio": 0.3,
            "interval": 2,
            "beta1": 0.85,
            "beta2": 0.85,
            "orthogonality": 0.1,
        },
    ),
    "prompt_tuning": (PromptTuning, {"virtual_tokens": 6}),
    "prefix_tuning": (
        PrefixTuning,
        {"virtual_tokens": 6, "projection": False, "init_std": 1.0, "dropout": 0.0},
    ),
}
VIRTUAL = ("prompt_tuning", "prefix_tuning")
STEPS = 14  # of a run
REFUSED = {
    ("bitfit", "llama"): "no biases",
    ("prefix_tuning", "deberta"): "cannot be prefix-tuned: its attention takes no keys and values",
}
FITTING = [
    (method, family) for method in METHODS for family in FAMILIES if (method, family) not in REFUSED
]


class Run:
    """A probe of a run that has this many steps."""

    def __init__(self, steps=STEPS):
        self.steps = steps


def make(name, **changes):
    cls, settings = METHODS[name]
    return cls(name, **(settings | changes))


def installed(name, family, **changes):
    """(method, model with a trainable head and the method in place), always from the same random
    numbers.
    """
    model, method = freeze_encoder(tiny_model(family)), make(name, **changes)
    torch.manual_seed(1)
    method.install(model)
    method.prepare(model, Run())
    return method, model


def train(method, model, batch, steps=STEPS, lr=1e-2):
    """Losses of some optimiser steps on one batch."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = model(**batch).loss
        losses.append(float(loss.detach()))
        penalty = method.penalty(model)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        method.on_step_end(model, step)
    return losses
