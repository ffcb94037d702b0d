"""Trainings by transformers and by Lightning, for tests of the callbacks."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from conftest import tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments

import loradrop
from loradrop.lora.inject import lora_modules

SAMPLE, BATCH, RATE = 16, 4, 0.01


def rows(count=SAMPLE):
    generator = torch.Generator().manual_seed(3)
    return [
        {
            "input_ids": torch.randint(3, 60, (9,), generator=generator),
            "labels": torch.tensor(i % 2),
        }
        for i in range(count)
    ]


def ours():
    """Our LoRA without dropout, and so the same whatever trains it."""
    model = tiny_model().train()
    torch.manual_seed(5)
    loradrop.add_lora(model, rank=4, alpha=8)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def theirs():
    """PEFT's, with the same values."""
    source = ours()
    model = tiny_model().train()
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"]))
    for name, module in lora_modules(source).items():
        layer = model.base_model.model.get_submodule(name)
        layer.lora_A["default"].weight.data.copy_(module.lora_A.data)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


class Ordered(Trainer):
    """Takes the rows as they come."""

    def _get_train_sampler(self, *args):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def arguments(folder, **settings):
    options = {
        "num_train_epochs": 2,
        "learning_rate": RATE,
        "weight_decay": 0.1,
        "lr_scheduler_type": "constant",
    }
    options |= {
        "per_device_train_batch_size": BATCH,
        "max_grad_norm": 0.0,
        "report_to": [],
        "use_cpu": True,
    }
    options |= {
        "save_strategy": "no",
        "disable_tqdm": True,
        "adam_epsilon": 1e-6,
        "logging_strategy": "no",
    }
    return TrainingArguments(output_dir=str(folder), **options | settings)


def optimiser(model):
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.1, eps=1e-6)


def values(model):
    """B A of every adapted module by its name in the base model."""
    if isinstance(model, PeftModel):
        layers = {n: m for n, m in model.get_base_model().named_modules() if hasattr(m, "lora_A")}
        return {
            n: m.lora_B["default"].weight @ m.lora_A["default"].weight for n, m in layers.items()
        }
    return {n: m.lora_B @ m.lora_A for n, m in lora_modules(model).items()}


def same(left, right):
    assert set(left) == set(right)
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], rtol=1e-4, atol=1e-5)


class Module(pl.LightningModule):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, _):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return optimiser(self.model)


def lightning(folder, epochs, callback, **settings):
    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[callback],
        **options | settings,
    )
