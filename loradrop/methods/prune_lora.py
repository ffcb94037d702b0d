"""Prune-LoRA: LoRA whose doublets are pruned during training, AdaLoRA's own ablation.

Zhang et al. 2023, arXiv 2303.10512, Sections 3.1 and 4.4 (Table 4, "Prune LoRA"). A doublet is a
row of A with its column of B. The score of a doublet is the mean over its row plus the mean over
its column of smoothed sensitivity times uncertainty, and the budget of doublets falls along
AdaLoRA's cubic curve. A pruned doublet is zeroed out entirely, so that its gradient is zero as
well: what keeps AdaLoRA's triplets alive, their vectors, is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.importance.criteria import SmoothedSensitivity, doublets, lora_parameters
from loradrop.lora.inject import lora_modules
from loradrop.lora.layer import LoRALinear
from loradrop.methods.base import Probe
from loradrop.methods.budgets import CubicBudget, check_schedule
from loradrop.methods.lora import LoRA


class PruneLoRA(LoRA):
    """LoRA whose budget of doublets shrinks during training.

    Args:
        name, alpha, dropout, target_modules: As in loradrop.methods.lora.LoRA.
        init_rank: The rank of every module at the start; alpha is divided by it.
        target_rank: The mean rank per module at the end.
        warmup_ratio: The share of the optimiser steps that keep the initial budget.
        final_ratio: The share of the optimiser steps at the end that keep the target budget.
        interval: The number of steps between two cuts of the budget.
        beta1: The smoothing factor of the sensitivity, in (0, 1).
        beta2: The smoothing factor of the uncertainty, in (0, 1).
    """

    def __init__(
        self,
        name: str,
        init_rank: int,
        target_rank: int,
        alpha: float,
        dropout: float,
        target_modules: Iterable[str] | str | None,
        warmup_ratio: float,
        final_ratio: float,
        interval: int,
        beta1: float,
        beta2: float,
    ) -> None:
        super().__init__(name, init_rank, alpha, dropout, target_modules)
        check_schedule(init_rank, target_rank, warmup_ratio, final_ratio, interval, beta1, beta2)
        self.init_rank, self.target_rank = init_rank, target_rank
        self.warmup_ratio, self.final_ratio, self.interval = warmup_ratio, final_ratio, interval
        self.smoothed = SmoothedSensitivity(beta1, beta2)
        self.modules: dict[str, LoRALinear] = {}
        self.budget: CubicBudget | None = None
        self.masks: dict[str, Tensor] = {}  # by module: True for doublets that are kept

    def adapt(self, model: nn.Module) -> None:
        super().adapt(model)
        self.modules = lora_modules(model)

    def check_steps(self, steps: int) -> None:
        budget = self._budget_of(steps)
        if budget.last - budget.warmup < max(2, self.interval):
            raise ValueError(
                f"Prune-LoRA's schedule does not fit a run of {steps} steps: {budget.warmup} of "
                f"warm-up (warmup_ratio) and {steps - budget.last} at the end (final_ratio) leave "
                f"too few to cut the budget in, every {self.interval} (interval)"
            )

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        """Translate the schedule into steps."""
        self.check_steps(probe.steps)
        self.budget = self._budget_of(probe.steps)

    def is_final(self, step: int) -> bool:
        return self.budget is not None and step >= self.budget.last

    @torch.no_grad()
    def on_step_end(self, model: nn.Module, step: int) -> None:
        if self.budget is None:
            raise RuntimeError(f"{self.name}: there is no schedule before `prepare`")
        if step < self.budget.last:  # as in PEFT's AdaLoRA
            self.smoothed.update(lora_parameters(model))
        if self.budget.cuts(step):
            self.masks = self._highest(self.budget.at(step))
        elif step < self.budget.last:
            return  # the optimiser's moments may move a pruned doublet until the next cut
        for name, mask in self.masks.items():
            module = self.modules[name]
            kept = mask.to(module.lora_A.device)
            module.lora_A.mul_(kept[:, None])
            module.lora_B.mul_(kept)

    def _highest(self, budget: int) -> dict[str, Tensor]:
        """Mark the doublets with the highest scores over all modules; of ties, the first ones."""
        scores = self.smoothed.scores()
        by_module = {
            name: doublets(scores[f"{name}.lora_A"], scores[f"{name}.lora_B"]).cpu()
            for name in self.modules
        }
        together = torch.cat(list(by_module.values()))
        kept = torch.zeros_like(together, dtype=torch.bool)
        kept[together.argsort(descending=True, stable=True)[:budget]] = True
        return dict(zip(by_module, kept.split(self.init_rank), strict=True))

    def result_fields(self) -> dict[str, Any]:
        """Report the final budget: doublets that are pruned at the end do not count."""
        if self.budget is None or not self.masks:
            return {}
        ranks = {name: int(mask.sum()) for name, mask in self.masks.items()}
        gone = sum(
            (self.init_rank - rank) * (self.modules[name].size // self.init_rank)
            for name, rank in ranks.items()
        )
        return {
            "inactive": gone,
            "notes": [
                f"Prune-LoRA's budget of {sum(ranks.values())} doublets holds from step "
                f"{self.budget.last} on; earlier epochs do not count as the best",
                "final ranks in the modules' order: " + " ".join(map(str, ranks.values())),
            ],
        }

    def state_dict(self) -> dict[str, Any]:
        budget = self.budget
        return {
            "schedule": None if budget is None else [budget.warmup, budget.last],
            "masks": self.masks,
            "sensitivity": self.smoothed.sensitivity,
            "uncertainty": self.smoothed.uncertainty,
        }

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        if not state:  # a finished run: its pruned doublets are zero in the saved weights
            return
        self.budget = self._budget(*state["schedule"])
        self.masks = dict(state["masks"])
        self.smoothed.sensitivity = dict(state["sensitivity"])
        self.smoothed.uncertainty = dict(state["uncertainty"])

    def _budget_of(self, steps: int) -> CubicBudget:
        return self._budget(
            round(self.warmup_ratio * steps), steps - round(self.final_ratio * steps)
        )

    def _budget(self, warmup: int, last: int) -> CubicBudget:
        sizes = len(self.modules) * self.init_rank, len(self.modules) * self.target_rank
        return CubicBudget(*sizes, warmup, last, self.interval)
