"""Measure, select and share in the course of somebody else's training loop: what the callbacks have in common.

Torch only; trainer_callback.py is for transformers.Trainer, lightning_callback.py for Lightning.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.importance.measurement import Importance, check_measurement, measure, uniform
from loradrop.lora.peft import LoRA, adapted_sites
from loradrop.selection import SelectionSettings, SharingPlan, select
from loradrop.sharing import SHARED_INIT, share

KEEP, FRESH = KEPT_INIT = ("keep", "fresh")


class LoRADropSchedule:
    """Carries LoRA-drop out once: after so many `steps` of the optimiser or `epochs`, or at the end of training.

    The paper trains on a sample first and then on everything: two trainings of the same model, the first on the sample with
    a callback that has neither `steps` nor `epochs`, so that it shares at the end, the second without one. With `steps` or
    `epochs` training goes on with the shared LoRAs, by the same optimiser and schedule; on one process only, since
    DistributedDataParallel cannot have its parameters changed.

    `batches` and `average_over`: what to measure on, see loradrop.measure. `kept_init`: LoRAs `keep` what they have
    learned, or start `fresh` with what they held when training began. `shared_init` and `adapter`: see loradrop.share.
    `seed` and `selection`: see loradrop.select. Afterwards `importance` and `plan` say what came of it.
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
        **selection: Any,
    ) -> None:
        check_measurement(batches, average_over)
        SelectionSettings(**selection)
        for name, count in (("steps", steps), ("epochs", epochs)):
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if steps is not None and epochs is not None:
            raise ValueError("give steps or epochs, or neither to share at the end of training")
        for name, value, allowed in (("kept_init", kept_init, KEPT_INIT), ("shared_init", shared_init, SHARED_INIT)):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got '{value}'")
        self.batches, self.steps, self.epochs = batches, steps, epochs
        self.selection: dict[str, Any] = {**selection, "seed": seed}
        self.average_over, self.kept_init, self.shared_init, self.adapter = average_over, kept_init, shared_init, adapter
        self.importance: Importance | None = None
        self.plan: SharingPlan | None = None
        self._first: dict[str, Tensor] = {}  # values of A and B when training began, by site and matrix

    @property
    def at_end(self) -> bool:
        """Is it to happen when training ends?"""
        return self.steps is None and self.epochs is None

    def begin(self, model: nn.Module, processes: int = 1, steps: float = math.inf, epochs: float = math.inf) -> None:
        """Training starts, of so many steps and epochs.

        ValueError, before it costs anything, where LoRA-drop cannot be carried out on the model or would never be.
        """
        if not self.at_end and processes > 1:
            raise ValueError(
                "LoRAs cannot be shared in the middle of a training in several processes: train on a sample with a callback "
                "that has neither steps nor epochs, then on everything"
            )
        for name, when, length in (("steps", self.steps, steps), ("epochs", self.epochs, epochs)):
            if when is not None and when > length:
                raise ValueError(f"{name} is {when}, but training ends after {length:g}: LoRAs would never be shared")
        loras = self._loras(model)
        select(uniform(model, self.adapter), **self.selection)  # a number of layers or a ratio that cannot be met
        if self.kept_init == FRESH:
            self._first = {name: parameter.detach().clone() for name, parameter in _matrices(loras).items()}

    def resume(self, model: nn.Module, plan: SharingPlan) -> None:
        """Share as before an interruption."""
        self.plan = plan
        share(model, plan, adapter=self.adapter)

    def is_due(self, steps: int = 0, epochs: float = 0, ended: bool = False) -> bool:
        """Is it time, so many steps or epochs having been trained? Only once."""
        reached = (
            self.steps is not None and steps >= self.steps,
            self.epochs is not None and epochs >= self.epochs,
            self.at_end and ended,
        )
        return self.plan is None and any(reached)

    def end(self) -> None:
        """Training is over: warn if it was too soon, stopped early."""
        if self.plan is None:
            warnings.warn("training ended before its LoRAs were measured and shared", stacklevel=2)

    def carry_out(self, model: nn.Module, optimizers: Iterable[Any] = (), autocast: torch.dtype | None = None) -> None:
        """Measure, select, share; the optimisers forget what is no longer there."""
        before = _matrices(self._loras(model))
        with torch.random.fork_rng():  # a loader draws a seed, which training would then not get
            self.importance = measure(model, self.batches, self.average_over, adapter=self.adapter, autocast=autocast)
        self.plan = select(self.importance, **self.selection)
        with torch.no_grad():
            for name, value in self._first.items():
                before[name].copy_(value)
        share(model, self.plan, self.shared_init, self.adapter)
        left = {id(parameter) for parameter in model.parameters()}
        for parameter in before.values():
            gone = id(parameter) not in left
            if gone:
                parameter.grad = None  # optimisers pass over what has no gradient
            if gone or self.kept_init == FRESH:
                for optimizer in optimizers:
                    optimizer.state.pop(parameter, None)

    def _loras(self, model: nn.Module) -> Mapping[str, LoRA]:
        return {site.name: lora for site, lora in adapted_sites(model, self.adapter).items()}


def _matrices(loras: Mapping[str, LoRA]) -> dict[str, nn.Parameter]:
    pairs = {name: (lora.lora_A, lora.lora_B) for name, lora in loras.items()}
    return {f"{name}.{matrix}": p for name, pair in pairs.items() for matrix, p in zip("AB", pair, strict=True)}
