"""The contract of a method, and what it may ask of a run before training starts.

A method is one small torch object: its constructor's arguments are the keys of its YAML in conf/method. The backbone comes
frozen except for its head; the method decides what else trains. To add one: a subclass in this folder and one YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from loradrop.importance.measurement import Importance
from loradrop.seeds import Seeds


@dataclass
class Stage1:
    """What a short training on a sample leaves behind."""

    importance: Importance
    trained: dict[str, Tensor]  # values of the trainable parameters after it


class Probe(Protocol):
    """The training set as a method may use it before the run (LoRA-drop's stage 1, SNIP's scores)."""

    seeds: Seeds
    steps: int  # optimiser steps of the run

    def sample(self, ratio: float) -> Sequence[int]:
        """Rows of a stratified sample, reproducible from the run's seed."""

    def fit(
        self,
        model: nn.Module,
        rows: Sequence[int],
        epochs: int,
        batch_size: int,
        steps: int | None = None,
    ) -> None:
        """Train what is trainable on these rows, by the run's own recipe but with batches of at most batch_size.

        `steps` of the optimiser, where given, instead of epochs.
        """

    def batches(self, rows: Sequence[int], gradients: bool = False) -> Iterable[Mapping[str, Any]]:
        """The rows as batches of the model's arguments, on its device; of a size that leaves room for `gradients`."""

    def autocast(self) -> AbstractContextManager:
        """The run's precision, for forward passes outside `fit`."""

    def stage1(self, settings: Mapping[str, Any], compute: Callable[[], Stage1]) -> Stage1:
        """The result of `compute`, or of an earlier run with the same settings, backbone, task, recipe and seed."""


class Method:
    """Base class; a subclass overrides what it needs."""

    measures = False  # whether `prepare` alone leaves a result: importances
    extra_tokens = 0  # that it puts in front of a text, out of the backbone's positions

    def __init__(self, name: str) -> None:
        self.name = name

    def install(self, model: nn.Module) -> None:
        """Add adapters, or mark what trains. ValueError where the method does not fit the model."""
        raise NotImplementedError

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        """Whatever has to be found out on the training set before the run."""

    def check_steps(self, steps: int) -> None:
        """ValueError where a run of so many optimiser steps does not do."""

    def is_final(self, step: int) -> bool:
        """Has the model its final form after this step? Epochs that end before it do not count as the best."""
        return True

    def penalty(self, model: nn.Module) -> Tensor | None:
        """A term to add to the loss of every training step."""
        return None

    def on_step_end(self, model: nn.Module, step: int) -> None:
        """Act after optimiser step `step` (from 1); the gradients are still there."""

    def result_fields(self) -> dict[str, Any]:
        """Facts for the result file, all optional:

        importance, plan   of LoRA-drop
        lora_parameters    plain LoRA's at the same rank and targets
        inactive           trainable numbers that are masked for good, and so not counted as the adapter's
        notes              lines for the summary
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What was decided in `prepare` or gathered in training and is no parameter: JSON values and tensors.

        Kept in checkpoints, beside the values of the trainable parameters.
        """
        return {}

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Bring an installed model to a state, in place of `prepare`; parameters are loaded afterwards.

        `state` comes from `state`, or from a finished run's result file: importance and plan, if it has them.
        """


def trainable_values(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all trainable parameters, on the CPU; a shared one stands under each of its names."""
    named = model.named_parameters(remove_duplicate=False)
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in named
        if parameter.requires_grad
    }


def load_values(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy values into the parameters of these names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)


def one_of(key: str, value: str, allowed: Collection[str]) -> None:
    """ValueError, naming the key, for a word that is not allowed."""
    if value not in allowed:
        raise ValueError(f"{key} must be one of {', '.join(allowed)}, got '{value}'")
