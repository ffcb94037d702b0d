"""A model's head: the part that a task adds, which trains beside the adapter."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from loradrop.tasks.base import LabelTask, Task


def auto_class(task: Task) -> Any:
    return AutoModelForCausalLM if task.generates else AutoModelForSequenceClassification


def head_options(task: Task) -> dict[str, Any]:
    """What a new head must know of the task, as keyword arguments of from_pretrained."""
    if task.generates:
        return {}
    task = cast(LabelTask, task)
    problem = "regression" if task.is_regression else "single_label_classification"
    names = dict(enumerate(task.labels or ()))
    labels = (
        {"id2label": names, "label2id": {name: i for i, name in names.items()}} if names else {}
    )
    return {"num_labels": task.num_labels, "problem_type": problem, **labels}


def freeze_encoder(model: PreTrainedModel) -> PreTrainedModel:
    """Leave only a new head trainable, in float32; its modules cast their inputs.

    The output embeddings of a language model are pretrained and stay frozen with the rest.
    """
    model.requires_grad_(False)
    if model.get_output_embeddings() is not None:
        return model
    for name, parameter in head_parameters(model):
        parameter.requires_grad_(True)
        if parameter.dtype != torch.float32:
            module = model.get_submodule(name.rpartition(".")[0]).float()
            module.register_forward_pre_hook(_as_float32)
    return model


def _as_float32(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.float() for x in inputs)


def head_parameters(model: PreTrainedModel) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters outside the encoder, and those of its pooler."""
    encoder = model.base_model_prefix + "."
    return [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if not name.startswith(encoder) or name.startswith(encoder + "pooler.")
    ]


def parameter_counts(model: PreTrainedModel, inactive: int = 0) -> dict[str, int]:
    """Count parameters.

    Args:
        model: The model.
        inactive: Trainable values that are masked for good. They do not count as the adapter's.

    Returns:
        The trainable parameters outside the head (`adapter`) and in the head (`head`), and the
        number of all parameters (`total`).
    """
    head = {id(parameter) for _, parameter in head_parameters(model)}
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        sizes[id(parameter) in head] += parameter.numel() * parameter.requires_grad
    total = sum(parameter.numel() for parameter in model.parameters())
    return {"adapter": sizes[False] - inactive, "head": sizes[True], "total": total}
