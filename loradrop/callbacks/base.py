"""Measure, select and share inside somebody else's training loop: the common part of the callbacks.

Torch only; `trainer` is for transformers.Trainer, `lightning` for Lightning.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.importance.importance import Importance
from loradrop.importance.measurement import check_measurement, measure, uniform
from loradrop.importance.told_masks import Mask
from loradrop.lora.peft import LoRA, adapted_sites
from loradrop.plan import SharingPlan
from loradrop.selection import SelectionSettings, select
from loradrop.sharing import SHARED_INIT, check_can_share, share, share_after_training

KEEP, FRESH = KEPT_INIT = ("keep", "fresh")


class LoRADropSchedule:
    """Carry out LoRA-drop once: after some optimiser steps or epochs, or at the end of training.

    The paper trains on a sample first and then on everything. These are two trainings of the same
    model: the first on the sample, with a callback that has neither `steps` nor `epochs` and so
    shares at the end, the second without a callback. With `steps` or `epochs`, training goes on
    with the shared LoRAs, the same optimiser and the same schedule. In several processes that takes
    Lightning's DDP, which can be wrapped around the model again; sharing at the end always works.

    Afterwards the attributes `importance` and `plan` hold the results. A training of another model
    by the same callback starts again.

    Args:
        batches: What to measure on; see loradrop.measure.
        steps: Optimiser steps after which to share.
        epochs: Epochs after which to share.
        average_over: See loradrop.measure.
        kept_init: `keep` lets the LoRAs keep what they have learned; `fresh` gives them the values
            that they had when training began.
        shared_init: Initial value of a shared LoRA; see loradrop.share.
        adapter: The adapter of a PEFT model; see loradrop.share.
        seed: See loradrop.select.
        token_mask: See loradrop.measure.
        **selection: Which layers keep their LoRA (threshold, parameter_ratio, num_layers, ...); see
            loradrop.select.

    Raises:
        TypeError: One batch instead of several, or an unknown argument.
        ValueError: Arguments that do not fit together, or a value that is not allowed.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        steps: int | None = None,
        epochs: int | None = None,
        average_over: str = "tokens",
        kept_init: str = KEEP,
        shared_init: str = "first",
        adapter: str | None = None,
        seed: int = 0,
        token_mask: Mask | Mapping[str, Mask] = None,
        **selection: Any,
    ) -> None:
        check_measurement(batches, average_over)
        SelectionSettings(**selection)
        for name, count in (("steps", steps), ("epochs", epochs)):
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if steps is not None and epochs is not None:
            raise ValueError("give steps or epochs, or neither to share at the end of training")
        for name, value, allowed in (
            ("kept_init", kept_init, KEPT_INIT),
            ("shared_init", shared_init, SHARED_INIT),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got '{value}'")
        self.batches, self.steps, self.epochs = batches, steps, epochs
        self.selection: dict[str, Any] = {**selection, "seed": seed}
        self.kept_init, self.shared_init = kept_init, shared_init
        self.average_over, self.adapter = average_over, adapter
        self.token_mask = token_mask
        self.importance: Importance | None = None
        self.plan: SharingPlan | None = None
        self._shared: weakref.ref[nn.Parameter] | None = None  # a LoRA that the plan has left
        self._first: dict[
            str, Tensor
        ] = {}  # values of A and B when training began, by site and matrix

    @property
    def at_end(self) -> bool:
        """Whether to share when training ends."""
        return self.steps is None and self.epochs is None

    def begin(
        self,
        model: nn.Module,
        processes: int = 1,
        steps: float = math.inf,
        epochs: float = math.inf,
    ) -> None:
        """Check before training that LoRA-drop can be carried out.

        Nothing is to be done if the model has been shared in an earlier training. Another model
        (of the next trial, the next fold) is measured and shared as if it were the first.

        Args:
            model: The model that is to train, with LoRA.
            processes: The number of processes, if their wrapper cannot be made again.
            steps: How many optimiser steps training has.
            epochs: How many epochs training has.

        Raises:
            ValueError: The model has no LoRA that can be measured, the selection does not fit its
                layers, LoRAs of a module type differ in rank and are to share, training ends before
                it is time to share, or there are several processes.
        """
        if self._has_shared(model):
            return
        self.importance = self.plan = None
        if not self.at_end and processes > 1:
            raise ValueError(
                "LoRAs cannot be shared in the middle of a training in several processes: train on"
                " a sample with a callback that has neither steps nor epochs, then on everything"
            )
        for name, when, length in (("steps", self.steps, steps), ("epochs", self.epochs, epochs)):
            if when is not None and when > length:
                raise ValueError(
                    f"{name} is {when}, but training ends after {length:g}: LoRAs would never be"
                    " shared"
                )
        loras = self._loras(model)
        # a number of layers or a ratio that cannot be met
        plan = select(uniform(model, self.adapter), **self.selection)
        # below a threshold of 1 fewer layers may be kept than here, where all count the same
        if any(plan.others.values()) or (self.selection.get("threshold") or 1) < 1:
            check_can_share(model, plan, self.adapter)
        if self.kept_init == FRESH:
            self._first = {
                name: parameter.detach().clone() for name, parameter in _matrices(loras).items()
            }

    def resume(self, model: nn.Module, plan: SharingPlan) -> None:
        """Share as before an interruption.

        Args:
            model: The model that is to train, with the LoRA that it had before it was shared, or
                shared already.
            plan: What the checkpoint holds.

        Raises:
            ValueError: The plan does not fit the model.
        """
        share(model, plan, adapter=self.adapter)
        self.plan = plan
        self._remember(model)

    def resume_without_plan(self, steps: int, epochs: float) -> None:
        """Resume from a checkpoint without a plan; warn if it should have one.

        Args:
            steps: How many optimiser steps the checkpoint has seen.
            epochs: How many epochs it has seen.

        Raises:
            ValueError: The model shares already, so that the checkpoint's LoRAs have overwritten
                each other.
        """
        if self.plan is not None:
            raise ValueError(
                "the checkpoint is from before LoRAs were shared, and the model shares already:"
                " resume with a new model and a new callback, or from a later checkpoint"
            )
        if self.is_due(steps, epochs + 1e-6):
            unit = "steps" if self.epochs is None else "epochs"
            warnings.warn(
                f"the checkpoint of step {steps} holds no plan, though it was made after the"
                f" {self.steps or self.epochs} {unit} after which LoRAs are shared: they will be"
                f" measured and shared after the next of the {unit}",
                stacklevel=3,
            )

    def is_due(self, steps: int = 0, epochs: float = 0, ended: bool = False) -> bool:
        """Whether to share now. False once that has happened.

        Args:
            steps: Optimiser steps so far.
            epochs: Epochs so far.
            ended: Whether training is over.
        """
        reached = (
            self.steps is not None and steps >= self.steps,
            self.epochs is not None and epochs >= self.epochs,
            self.at_end and ended,
        )
        return self.plan is None and any(reached)

    def end(self) -> None:
        """Warn if training has stopped before it was time to share."""
        if self.plan is None:
            warnings.warn("training ended before its LoRAs were measured and shared", stacklevel=2)

    def carry_out(
        self, model: nn.Module, optimizers: Iterable[Any] = (), autocast: torch.dtype | None = None
    ) -> None:
        """Measure, select and share.

        Args:
            model: The model that trains.
            optimizers: Its optimisers, which forget the LoRAs that are no longer there.
            autocast: The type in which the model computes, if training is in mixed precision.

        Raises:
            ValueError: What measure, select or share refuse.
        """
        before = _matrices(self._loras(model))
        with torch.random.fork_rng():  # a loader draws a seed, which training would then not get
            self.importance = measure(
                model,
                self.batches,
                self.average_over,
                adapter=self.adapter,
                autocast=autocast,
                token_mask=self.token_mask,
            )
        self.plan = select(self.importance, **self.selection)
        with torch.no_grad():
            for name, value in self._first.items():
                before[name].copy_(value)
        (share_after_training if self.at_end else share)(
            model, self.plan, self.shared_init, self.adapter
        )
        self._remember(model)
        left = {id(parameter) for parameter in model.parameters()}
        for parameter in before.values():
            gone = id(parameter) not in left
            if gone:
                parameter.grad = None  # optimisers pass over what has no gradient
            if gone or self.kept_init == FRESH:
                for optimizer in optimizers:
                    optimizer.state.pop(parameter, None)

    def _remember(self, model: nn.Module) -> None:
        """Note that the plan is this model's, whatever wrappers it will be in."""
        self._shared = weakref.ref(next(iter(self._loras(model).values())).lora_A)

    def _has_shared(self, model: nn.Module) -> bool:
        left = None if self._shared is None else self._shared()
        return left is not None and any(parameter is left for parameter in model.parameters())

    def _loras(self, model: nn.Module) -> Mapping[str, LoRA]:
        return {site.name: lora for site, lora in adapted_sites(model, self.adapter).items()}


def _matrices(loras: Mapping[str, LoRA]) -> dict[str, nn.Parameter]:
    pairs = {name: (lora.lora_A, lora.lora_B) for name, lora in loras.items()}
    return {
        f"{name}.{matrix}": p
        for name, pair in pairs.items()
        for matrix, p in zip("AB", pair, strict=True)
    }
