"""The contract of a method, and what a method may ask of a run before training starts.

A method is one small torch object. Its constructor's arguments are the keys of its YAML in
conf/method. The backbone arrives frozen except for its head; the method decides what else trains.
To add a method, write a subclass in this folder and one YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from loradrop.importance.importance import ByLayer, Importance
from loradrop.seeds import Seeds


@dataclass
class Stage1:
    """The result of a short training on a sample."""

    importance: Importance
    trained: dict[str, Tensor]  # the trainable parameters' values after the training
    ranking: ByLayer | None = None  # what a criterion found that needs the training set


class Probe(Protocol):
    """What a method may use of the training set before the run, e.g. in LoRA-drop's stage 1."""

    seeds: Seeds
    steps: int  # the run's number of optimiser steps

    def sample(self, ratio: float) -> Sequence[int]:
        """Draw a stratified sample that the run's seed reproduces.

        Args:
            ratio: The share of the training set, in (0, 1].

        Returns:
            The rows of the sample.
        """

    def fit(
        self,
        model: nn.Module,
        rows: Sequence[int],
        epochs: int,
        batch_size: int,
        steps: int | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> None:
        """Train the trainable parameters on some rows, with the run's own recipe.

        Args:
            model: The model to train.
            rows: The rows to train on.
            epochs: The number of epochs.
            batch_size: The largest batch size; the recipe's own is used if it is smaller.
            steps: The number of optimiser steps. If given, it replaces `epochs`.
            on_step: Called after each optimiser step, while its gradients are still there.
        """

    def batches(
        self, rows: Sequence[int], gradients: bool = False, divided: bool = False
    ) -> Iterable[Mapping[str, Any]]:
        """Yield the rows as batches of the model's arguments, on the model's device.

        Args:
            rows: The rows to yield.
            gradients: Whether to make the batches small enough for a backward pass.
            divided: Whether each of several processes yields a part of the rows, for `measure`,
                which adds up what they have seen.
        """

    def autocast(self) -> AbstractContextManager:
        """Return a context with the run's precision, for forward passes outside `fit`."""

    def stage1(self, settings: Mapping[str, Any], compute: Callable[[], Stage1]) -> Stage1:
        """Return the result of `compute`, or a stored one of an earlier run.

        A stored result is used if settings, backbone, task, recipe and seed are all the same.

        Args:
            settings: The method's settings on which the result depends.
            compute: Computes the result.
        """


class Method:
    """Base class of all methods; a subclass overrides what it needs."""

    measures = False  # whether `prepare` alone yields a result (importances)
    extra_tokens = 0  # tokens put in front of a text; they take positions of the backbone

    def __init__(self, name: str) -> None:
        self.name = name

    def install(self, model: nn.Module) -> None:
        """Add adapters to the model, or mark the parameters that train.

        Raises:
            ValueError: The method does not fit the model.
        """
        raise NotImplementedError

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        """Find out on the training set what the method must know before the run starts."""

    def check_steps(self, steps: int) -> None:
        """Raise ValueError if the method's schedule does not fit this many optimiser steps."""

    def is_final(self, step: int) -> bool:
        """Whether the architecture is final after `step`; earlier epochs cannot be the best."""
        return True

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Return a term that is added to the loss of every training step, or None."""
        return None

    def on_step_end(self, model: nn.Module, step: int) -> None:
        """Act after optimiser step `step`, counted from 1. The gradients are still available."""

    def result_fields(self) -> dict[str, Any]:
        """Return facts for the result file.

        Returns:
            A dictionary with any of these keys:
                importance, plan: What LoRA-drop measured and selected.
                lora_parameters: The parameters of plain LoRA with the same rank and targets.
                inactive: The number of trainable values that are masked for good. They do not count
                    as the adapter's.
                notes: Lines for the summary.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what `prepare` decided or training gathered beyond the parameters.

        A checkpoint stores it beside the values of the trainable parameters.

        Returns:
            JSON values and tensors by name.
        """
        return {}

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        """Bring an installed model to a stored state, in place of `prepare`.

        The parameters are loaded afterwards.

        Args:
            model: The model, as `install` left it.
            state: What `state_dict` returned, or what a finished run's result file holds:
                importance and plan, if it has them.
        """


def trainable_values(model: nn.Module) -> dict[str, Tensor]:
    """Copy all trainable parameters to the CPU. A shared one appears under each of its names."""
    named = model.named_parameters(remove_duplicate=False)
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in named
        if parameter.requires_grad
    }


def load_values(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy values into the parameters of the same names."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, value in state.items():
            parameters[name].copy_(value)


def one_of(key: str, value: str, allowed: Collection[str]) -> None:
    """Raise a ValueError that names the key, unless the value is allowed."""
    if value not in allowed:
        raise ValueError(f"{key} must be one of {', '.join(allowed)}, got '{value}'")
