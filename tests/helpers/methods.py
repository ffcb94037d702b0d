"""What the tests of LoRA's relatives share: small methods, models that hold them, a probe."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from conftest import tiny_model, train_b

from loradrop.methods.prilora import PRILoRA
from loradrop.methods.sparse_adapter import SparseAdapter
from loradrop.methods.vera import VeRA
from loradrop.seeds import Seeds

COMMON = {"name": "x", "rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": None}


def vera(**changes):
    settings = {key: value for key, value in COMMON.items() if key != "alpha"} | {"d_initial": 0.1}
    return VeRA(**(settings | changes))


def sparse(**changes):
    settings = {"sparsity": 0.5, "scope": "model", "init_std": 0.02, "sample_ratio": 1.0}
    return SparseAdapter(
        **(
            COMMON
            | settings
            | {"warmup_epochs": 0, "warmup_batch_size": 8, "pruner": "snip"}
            | changes
        )
    )


def prilora(**changes):
    settings = {
        "name": "x",
        "rank_first": 2,
        "rank_last": 6,
        "alpha": 8,
        "dropout": 0.0,
        "target_modules": "all-linear",
    }
    settings |= {
        "pruning": "importance",
        "matrix": "A",
        "ratio": 0.5,
        "scope": "row",
        "interval": 2,
        "decay": 0.9,
    }
    return PRILoRA(**(settings | {"regrow": True, "distribution": "linear"} | changes))


def installed(method, family="roberta", seed=0):
    """A frozen model with the method's adapters; the head trains."""
    model = tiny_model(family, seed).requires_grad_(False)
    head = model.classifier if hasattr(model, "classifier") else model.score
    head.requires_grad_(True)
    method.install(model)
    return model


def randomise(model, *suffixes, scale=0.3):
    """Values, as training would give them, for the parameters whose names end so."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(suffixes):
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


class Batches:
    """A probe that has these batches as its training set."""

    seeds, steps = Seeds(0), 10

    def __init__(self, *batches):
        self.given = batches

    def sample(self, ratio):
        return [0]

    def fit(self, model, rows, epochs, batch_size, steps=None, on_step=None):
        train_b(model)

    def batches(self, rows, gradients=False, divided=False):
        return self.given

    def autocast(self):
        return nullcontext()
