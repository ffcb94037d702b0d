"""LoRA-drop (arXiv 2402.07721): measure, select, share.

Stage 1 trains plain LoRA for a few epochs on a stratified sample and measures
g_i = mean || dW_i x_i ||^2. The layers whose normalised importances y_i add up to the threshold T
keep their own LoRA; the other layers of a module type share one. Then the run fine-tunes on the
whole training set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from loradrop.importance import criteria
from loradrop.importance.importance import ByLayer, Importance
from loradrop.importance.measurement import measure, uniform
from loradrop.importance.moments import AVERAGES
from loradrop.lora.inject import lora_sites
from loradrop.methods.base import Probe, Stage1, load_values, one_of, trainable_values
from loradrop.methods.lora import LoRA
from loradrop.plan import SharingPlan
from loradrop.selection import SelectionSettings, select
from loradrop.sharing import share

FRESH, KEEP = "fresh", "keep"
SHARED_INIT_CHOICES = (FRESH, "first", "mean")
MEASURED_ROWS = SAMPLE, TRAIN = "sample", "train"
# AdaLoRA's smoothing factors (Zhang et al. 2023, Section 4), for the criterion `sensitivity`
SMOOTHING = (0.85, 0.85)
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
        measure_on: The rows that the importance is averaged over: the `sample`, or all of `train`.
        average_over: Average the importance over all `tokens`, over the tokens of each example and
            then over `examples`, or over the `target_tokens` (generation).
        threshold, parameter_ratio, num_layers, across_module_types, strategy, share: See
            loradrop.selection.SelectionSettings.
        kept_init: Where kept LoRAs start after stage 1: `fresh` as before it, or `keep` what they
            learned.
        shared_init: Where a shared LoRA starts: `fresh`, or from what stage 1 taught the `first`
            (lowest) of its layers, or the `mean` of its layers.
        criterion: What ranks the layers of a module type: the norm of the `output` (LoRA-drop), or
            one of loradrop.importance.criteria, or `random`. The output's norm still says how many
            layers are kept, so that criteria compare at the same number of parameters.
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
        measure_on: str,
        average_over: str,
        threshold: float | None,
        parameter_ratio: float | None,
        num_layers: int | None,
        across_module_types: bool,
        strategy: str,
        share: bool,
        kept_init: str,
        shared_init: str,
        criterion: str,
    ) -> None:
        super().__init__(name, rank, alpha, dropout, target_modules)
        one_of("measure_on", measure_on, MEASURED_ROWS)
        one_of("average_over", average_over, AVERAGES)
        one_of("kept_init", kept_init, (FRESH, KEEP))
        one_of("shared_init", shared_init, SHARED_INIT_CHOICES)
        one_of("criterion", criterion, criteria.CRITERIA)
        if criterion != criteria.OUTPUT and strategy != "largest":
            raise ValueError(f"criterion={criterion} ranks for strategy=largest, not {strategy}")
        if not 0 < sample_ratio <= 1:
            raise ValueError(f"sample_ratio must lie in (0, 1], got {sample_ratio}")
        self.sample_ratio, self.sample_epochs = sample_ratio, sample_epochs
        self.sample_steps, self.sample_batch_size = sample_steps, sample_batch_size
        for key in ("sample_epochs", "sample_steps", "sample_batch_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, got {value}")
        self.selection: dict[str, Any] = {
            "threshold": threshold,
            "parameter_ratio": parameter_ratio,
            "num_layers": num_layers,
            "across_module_types": across_module_types,
            "strategy": strategy,
            "share": share,
        }
        SelectionSettings(**self.selection)
        if criterion == criteria.RANDOM:
            self.selection["strategy"] = "random"
        self.measure_on, self.average_over, self.criterion = measure_on, average_over, criterion
        self.kept_init, self.shared_init = kept_init, shared_init
        self.importance: Importance | None = None
        self.ranking: ByLayer | None = None  # of another criterion than the output
        self.plan: SharingPlan | None = None

    def install(self, model: nn.Module) -> None:
        super().install(model)
        # refuse settings that cannot be met before anything is trained
        select(uniform(model), **self.selection)

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        initial = trainable_values(model)
        stage1 = probe.stage1(self._stage1_settings(), lambda: self._stage1(model, probe))
        self.importance, self.ranking = stage1.importance, stage1.ranking
        if self.criterion in (criteria.WEIGHT_NORM, criteria.COUNT):
            load_values(model, stage1.trained)
            of_weights = {
                criteria.WEIGHT_NORM: criteria.weight_norms,
                criteria.COUNT: criteria.counts,
            }
            self.ranking = of_weights[self.criterion](model)
        seed = probe.seeds.selection
        self.plan = select(self.importance, seed, self.ranking, **self.selection)
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

    def _stage1_settings(self) -> dict[str, Any]:
        """What stage 1 depends on. What has its default does not count (None)."""
        needs_data = self.criterion in (criteria.GRADIENT, criteria.SENSITIVITY)
        return {key: getattr(self, key) for key in STAGE1_SETTINGS} | {
            "measure_on": None if self.measure_on == SAMPLE else self.measure_on,
            "criterion": self.criterion if needs_data else None,
        }

    def _stage1(self, model: nn.Module, probe: Probe) -> Stage1:
        rows = probe.sample(self.sample_ratio)
        smoothed = criteria.SmoothedSensitivity(*SMOOTHING)
        on_step = None
        if self.criterion == criteria.SENSITIVITY:
            on_step = partial(smoothed.update, criteria.lora_parameters(model))
        size, steps = self.sample_batch_size, self.sample_steps
        probe.fit(model, rows, self.sample_epochs, size, steps, on_step)
        measured = rows if self.measure_on == SAMPLE else probe.sample(1)
        with probe.autocast():
            importance = measure(model, probe.batches(measured, divided=True), self.average_over)
        scores = smoothed.scores()
        if self.criterion == criteria.GRADIENT:
            found = criteria.products(
                model, probe.batches(measured, gradients=True), probe.autocast
            )
            scores = {name: product.abs() for name, product in found.items()}
        ranking = criteria.by_layer(model, scores, self.criterion) if scores else None
        return Stage1(importance, trainable_values(model), ranking)

    def result_fields(self) -> dict[str, Any]:
        fields = super().result_fields() | {"importance": self.importance, "plan": self.plan}
        if self.ranking is None:
            return fields
        orders = []
        for kind, layers in self.ranking.items():
            ranked = sorted(layers, key=lambda layer: (-layers[layer], layer))
            orders.append(f"{kind.removeprefix('*.')} {' '.join(map(str, ranked))}")
        return fields | {"notes": [f"layers by {self.criterion}: {'; '.join(orders)}"]}

    def state_dict(self) -> dict[str, Any]:
        if self.importance is None or self.plan is None:
            raise RuntimeError(
                f"{self.name}: there is no state before `prepare` or `load_state_dict`"
            )
        state = {"importance": self.importance.to_dict(), "plan": self.plan.to_dict()}
        return state if self.ranking is None else state | {"ranking": self.ranking}

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        self.importance = Importance.from_dict(state["importance"])
        self.plan = SharingPlan.from_dict(state["plan"])
        self.ranking = state.get("ranking")  # not among a finished run's results
        share(model, self.plan)
