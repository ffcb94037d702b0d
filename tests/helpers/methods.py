"""What the tests of LoRA's relatives share: small methods, models that hold them, a probe."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from conftest import tiny_model, train_b

from loradrop.methods.lora_drop import LoRADrop
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


def same_outputs_and_gradients(ours, theirs, batch, pairs):
    """Check that two models agree, and that each pair of parameters has one gradient, not zero."""
    left, right = ours(**batch), theirs(**batch)
    torch.testing.assert_close(left.logits, right.logits)
    left.loss.backward()
    right.loss.backward()
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad)
        assert mine.grad.abs().max() > 0


def train(model, batch, steps=3):
    """Train with weight decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()


def lora_drop(**changes):
    settings = COMMON | {
        "name": "lora_drop",
        "sample_ratio": 0.5,
        "sample_epochs": 1,
        "sample_steps": None,
        "sample_batch_size": 4,
        "measure_on": "sample",
        "average_over": "tokens",
        "threshold": None,
        "parameter_ratio": None,
        "num_layers": 1,
        "across_module_types": False,
        "strategy": "largest",
        "share": True,
        "kept_init": "fresh",
        "shared_init": "fresh",
        "criterion": "output",
    }
    return LoRADrop(**(settings | changes))


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
