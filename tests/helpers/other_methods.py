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


def adamw(model, lr=1e-2):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)


def train(method, model, batch, steps=STEPS, lr=1e-2):
    """Losses of some optimiser steps on one batch."""
    return train_on(method, model, batch, adamw(model, lr), range(1, steps + 1))


def train_on(method, model, batch, optimizer, steps):
    """Losses of these optimiser steps, counted from 1."""
    losses = []
    for step in steps:
        optimizer.zero_grad()
        loss = model(**batch).loss
        losses.append(float(loss.detach()))
        penalty = method.penalty(model)
        (loss if penalty is None else loss + penalty).backward()
        optimizer.step()
        method.on_step_end(model, step)
    return losses


def goes_on_bit_for_bit(fresh, batch, at, file):
    """Check that a run interrupted after step `at` ends as one that was not.

    Args:
        fresh: Makes (method, model), always from the same random numbers.
        at: The last step before the interruption.
        file: Where to store the state.

    Returns:
        The method's state at the interruption.
    """
    method, model = fresh()
    optimizer = adamw(model)
    method.prepare(model, Run())
    train_on(method, model, batch, optimizer, range(1, at + 1))
    torch.save([method.state_dict(), model.state_dict(), optimizer.state_dict()], file)
    train_on(method, model, batch, optimizer, range(at + 1, STEPS + 1))
    state, values, moments = torch.load(file, weights_only=True)
    again, resumed = fresh()
    optimizer = adamw(resumed)
    again.load_state_dict(resumed, state)
    resumed.load_state_dict(values)
    optimizer.load_state_dict(moments)
    train_on(again, resumed, batch, optimizer, range(at + 1, STEPS + 1))
    assert again.result_fields() == method.result_fields() != {}
    for name, value in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    return state
