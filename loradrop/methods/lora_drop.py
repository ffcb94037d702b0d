"""LoRA-drop (arXiv 2402.07721): measure, select, share.

Stage 1 trains plain LoRA for a few epochs on a stratified sample and measures
g_i = mean || dW_i x_i ||^2. The layers whose normalised importances y_i add up to the threshold T
keep their own LoRA; the other layers of a module type share one. Then the run fine-tunes on the
whole training set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from loradrop.importance.importance import Importance
from loradrop.importance.measurement import measure, uniform
from loradrop.importance.moments import AVERAGES
from loradrop.lora.inject import lora_sites
from loradrop.methods.base import Probe, Stage1, load_values, one_of, trainable_values
from loradrop.methods.lora import LoRA
from loradrop.selection import SelectionSettings, SharingPlan, select
from loradrop.sharing import share

FRESH, KEEP = "fresh", "keep"
SHARED_INIT_CHOICES = (FRESH, "first", "mean")
# the measurement depends on these, besides backbone, task, recipe and seed
STAGE1_SETTINGS = (
    *("rank", "alpha", "dropout", "target_modules"),
    *("sample_ratio", "sample_epochs", "sample_steps", "sample_batch_size", "average_over"),
)


class LoRADrop(LoRA):
    """LoRA-drop, with a switch for each choice that the paper leaves open.

    The head starts afresh after stage 1, whatever `kept_init` and `shared_init` are.

    Args:
        name, rank, alpha, dropout, target_modules: As in loradrop.methods.lora.LoRA.
        sample_ratio: The share of the training set that stage 1 trains on, in (0, 1].
        sample_epochs: The epochs of stage 1.
        sample_steps: The optimiser steps of stage 1. If given, they replace `sample_epochs`, so
            that samples of any size are trained on for equally long (Figure 11).
        sample_batch_size: The largest batch size of stage 1. With a recipe's large batches a small
            sample would get only a handful of steps.
        average_over: Average the importance over all `tokens`, over the tokens of each example and
            then over `examples`, or over the `target_tokens` (generation).
        threshold, parameter_ratio, num_layers, across_module_types, strategy, share: See
            loradrop.selection.SelectionSettings.
        kept_init: Where kept LoRAs start after stage 1: `fresh` as before it, or `keep` what they
            learned.
        shared_init: Where a shared LoRA starts: `fresh`, or from what stage 1 taught the `first`
            (lowest) of its layers, or the `mean` of its layers.
    """

    measures = True

    def __init__(
        self,
        name: str,
        rank: int,
        alpha: float,
        dropout: float,
        target_modules: Iterable[str] | None,
        sample_ratio: float,
        sample_epochs: int,
        sample_steps: int | None,
        sample_batch_size: int,
        average_over: str,
        threshold: float | None,
        parameter_ratio: float | None,
        num_layers: int | None,
        across_module_types: bool,
        strategy: str,
        share: bool,
        kept_init: str,
        shared_init: str,
    ) -> None:
        super().__init__(name, rank, alpha, dropout, target_modules)
        one_of("average_over", average_over, AVERAGES)
        one_of("kept_init", kept_init, (FRESH, KEEP))
        one_of("shared_init", shared_init, SHARED_INIT_CHOICES)
        if not 0 < sample_ratio <= 1:
            raise ValueError(f"sample_ratio must lie in (0, 1], got {sample_ratio}")
        least_one = {
            "sample_epochs": sample_epochs,
            "sample_steps": sample_steps,
            "sample_batch_size": sample_batch_size,
        }
        for key, value in least_one.items():
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, got {value}")
        self.sample_ratio, self.sample_epochs, self.average_over = (
            sample_ratio,
            sample_epochs,
            average_over,
        )
        self.sample_steps, self.sample_batch_size = sample_steps, sample_batch_size
        self.selection: dict[str, Any] = {
            "threshold": threshold,
            "parameter_ratio": parameter_ratio,
            "num_layers": num_layers,
            "across_module_types": across_module_types,
            "strategy": strategy,
            "share": share,
        }
        SelectionSettings(**self.selection)
        self.kept_init, self.shared_init = kept_init, shared_init
        self.importance: Importance | None = None
        self.plan: SharingPlan | None = None

    def install(self, model: nn.Module) -> None:
        super().install(model)
        # refuse settings that cannot be met before anything is trained
        select(uniform(model), **self.selection)

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        initial = trainable_values(model)
        settings = {key: getattr(self, key) for key in STAGE1_SETTINGS}
        stage1 = probe.stage1(settings, lambda: self._stage1(model, probe))
        self.importance = stage1.importance
        self.plan = select(self.importance, **self.selection, seed=probe.seeds.selection)
        load_values(model, initial)
        self._recall(model, self.plan, stage1.trained)
        share(model, self.plan, "mean" if self.shared_init == "mean" else "first")

    def _recall(self, model: nn.Module, plan: SharingPlan, trained: Mapping[str, Tensor]) -> None:
        """Give the LoRAs that do not start afresh what they learned in stage 1."""
        for site in lora_sites(model):
            kept = site.layer in plan.kept[site.module_type]
            if (self.kept_init if kept else self.shared_init) != FRESH:
                names = (f"{site.name}.lora_A", f"{site.name}.lora_B")
                load_values(model, {name: trained[name] for name in names})

    def _stage1(self, model: nn.Module, probe: Probe) -> Stage1:
        rows = probe.sample(self.sample_ratio)
        probe.fit(model, rows, self.sample_epochs, self.sample_batch_size, self.sample_steps)
        with probe.autocast():
            importance = measure(model, probe.batches(rows), self.average_over)
        return Stage1(importance, trainable_values(model))

    def result_fields(self) -> dict[str, Any]:
        return super().result_fields() | {"importance": self.importance, "plan": self.plan}

    def state_dict(self) -> dict[str, Any]:
        if self.importance is None or self.plan is None:
            raise RuntimeError(
                f"{self.name}: there is no state before `prepare` or `load_state_dict`"
            )
        return {"importance": self.importance.to_dict(), "plan": self.plan.to_dict()}

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self.importance, self.plan = (
            Importance.from_dict(state["importance"]),
            SharingPlan.from_dict(state["plan"]),
        )
        share(model, self.plan)
