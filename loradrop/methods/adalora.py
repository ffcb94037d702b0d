"""AdaLoRA: W + P diag(l) Q with a rank that training distributes over the modules.

Zhang et al. 2023, arXiv 2303.10512. PEFT does the work in place and names the parts B = P
(d_out, r), E = l (r, 1) and A = Q (r, d_in). The score of a triplet (a column of P, an entry of l,
a row of Q) is smoothed sensitivity times uncertainty. After a warm-up the budget of triplets falls
along a cubic curve, on average from init_rank to target_rank per module, and the entries of l with
the lowest scores become zero. Their triplets stay in memory and in the optimiser but add nothing
to the output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loradrop.extras import extra
from loradrop.lora.sites import Site, as_list, find_sites
from loradrop.methods.base import Method, Probe
from loradrop.methods.budgets import check_schedule

ADAPTER = "default"  # PEFT's name for an unnamed adapter
SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # PEFT's RankAllocator keeps these by parameter


class AdaLoRA(Method):
    """LoRA whose budget of ranks shrinks during training.

    Args:
        name: The method's name in results.
        init_rank: The rank of every module at the start.
        target_rank: The mean rank per module at the end.
        alpha: LoRA's alpha.
        dropout: Dropout on the adapters' inputs, in [0, 1).
        target_modules: The modules to adapt, as in loradrop.lora.inject.add_lora.
        warmup_ratio: The share of the optimiser steps that keep the initial budget.
        final_ratio: The share of the optimiser steps at the end that keep the target budget.
        interval: The number of steps between two cuts of the budget.
        beta1: The smoothing factor of the sensitivity, in (0, 1).
        beta2: The smoothing factor of the uncertainty, in (0, 1).
        orthogonality: The weight of the orthogonality penalty.
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
        orthogonality: float,
    ) -> None:
        super().__init__(name)
        check_schedule(init_rank, target_rank, warmup_ratio, final_ratio, interval, beta1, beta2)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}")
        if orthogonality < 0 or alpha <= 0:
            raise ValueError(
                "orthogonality must not be negative and alpha positive, "
                f"got {orthogonality} and {alpha}"
            )
        self.init_rank, self.target_rank = init_rank, target_rank
        self.alpha, self.dropout = alpha, dropout
        self.target_modules = as_list(target_modules)
        self.warmup_ratio, self.final_ratio, self.interval = warmup_ratio, final_ratio, interval
        self.beta1, self.beta2, self.orthogonality = beta1, beta2, orthogonality
        self.sites: list[Site] = []
        self.tuner: Any = None  # PEFT's AdaLoraModel

    def install(self, model: nn.Module) -> None:
        with extra("peft"):  # late: the import takes seconds
            from peft import AdaLoraConfig, AdaLoraModel

        self.sites = find_sites(model, self.target_modules)
        for site in self.sites:
            base: Any = model.get_submodule(site.name)
            if self.init_rank > min(base.in_features, base.out_features):
                size = f"{base.in_features} x {base.out_features}"
                raise ValueError(
                    f"init_rank {self.init_rank} is too large for {site.name}, a {size} module"
                )
        head = [parameter for parameter in model.parameters() if parameter.requires_grad]
        config = AdaLoraConfig(
            init_r=self.init_rank,
            target_r=self.target_rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=[site.name for site in self.sites],
            deltaT=self.interval,
            beta1=self.beta1,
            beta2=self.beta2,
            orth_reg_weight=self.orthogonality,
            total_step=1,  # `prepare` sets the run's
        )
        self.tuner = AdaLoraModel(model, config, ADAPTER)
        for parameter in head:
            parameter.requires_grad_(True)
        for layer in self._layers().values():
            # PEFT leaves this constant trainable if the base is not float32
            layer.ranknum.requires_grad_(False)
            for parameter in (layer.lora_A[ADAPTER], layer.lora_E[ADAPTER], layer.lora_B[ADAPTER]):
                parameter.data = parameter.data.float()

    def check_steps(self, steps: int) -> None:
        start, final = self._parts(steps)
        room = steps - start - final
        if room < max(2, self.interval):
            raise ValueError(
                f"AdaLoRA's schedule does not fit a run of {steps} steps: {start} of warm-up "
                f"(warmup_ratio) and {final} at the end (final_ratio) leave {room} to cut the "
                f"budget in, every {self.interval} (interval)"
            )

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        """Translate the schedule into steps."""
        self.check_steps(probe.steps)
        self._schedule(probe.steps, *self._parts(probe.steps))

    def is_final(self, step: int) -> bool:
        return step >= self._config.total_step - self._config.tfinal

    def penalty(self, model: nn.Module) -> Tensor | None:
        """Weight the mean of ||P^T P - I|| and ||Q Q^T - I|| over all modules by `orthogonality`.

        As in PEFT, these are norms, not their squares.
        """
        if not self.orthogonality:
            return None
        norms = []
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            for layer in self._layers().values():
                P, Q = layer.lora_B[ADAPTER], layer.lora_A[ADAPTER]
                unit = torch.eye(Q.shape[0], dtype=Q.dtype, device=Q.device)
                norms += [
                    torch.linalg.matrix_norm(P.T @ P - unit),
                    torch.linalg.matrix_norm(Q @ Q.T - unit),
                ]
        return self.orthogonality * torch.stack(norms).mean()

    def on_step_end(self, model: nn.Module, step: int) -> None:
        allocator, device = self.tuner.rankallocator, next(model.parameters()).device
        for key in SCORES:  # a checkpoint's are on the CPU
            setattr(
                allocator,
                key,
                {name: score.to(device) for name, score in getattr(allocator, key).items()},
            )
        for name, parameter in self.tuner.model.named_parameters():
            if "lora_" in name and parameter.grad is not None:
                # an overflow, for which float16 skips the step, must not stay in the scores
                parameter.grad.nan_to_num_(0, 0, 0)
        self.tuner.update_and_allocate(step)

    def result_fields(self) -> dict[str, Any]:
        """Report the final budget: triplets that are masked at the end do not count."""
        config = self._config
        if config.rank_pattern is None:
            return {}
        layers = self._layers()
        ranks = {
            site: sum(config.rank_pattern[f"{site.name}.lora_E.{ADAPTER}"]) for site in self.sites
        }
        sizes = {
            site: layers[site.name].in_features + layers[site.name].out_features + 1
            for site in self.sites
        }
        by_type: dict[str, list[str]] = {}
        for site, rank in ranks.items():
            by_type.setdefault(site.module_type.removeprefix("*."), []).append(str(rank))
        return {
            "inactive": sum((self.init_rank - ranks[site]) * sizes[site] for site in self.sites),
            "notes": [
                f"AdaLoRA's budget of {sum(ranks.values())} triplets holds from step "
                f"{config.total_step - config.tfinal} of {config.total_step} on; earlier epochs do "
                "not count as the best",
                "final ranks from the lowest layer: "
                + "; ".join(f"{k} {' '.join(v)}" for k, v in by_type.items()),
            ],
        }

    def state_dict(self) -> dict[str, Any]:
        config, allocator = self._config, self.tuner.rankallocator
        scores = {key: dict(getattr(allocator, key)) for key in SCORES}
        schedule = [config.total_step, config.tinit, config.tfinal]
        return {"schedule": schedule, "rank_pattern": config.rank_pattern, **scores}

    def load_state_dict(self, model: nn.Module, state: Mapping[str, Any]) -> None:
        if not state:  # a finished run: its masked l are zero in the saved weights
            return
        self._schedule(*state["schedule"])
        self._config.rank_pattern = state["rank_pattern"]
        for key in SCORES:
            setattr(self.tuner.rankallocator, key, dict(state[key]))

    @property
    def _config(self) -> Any:
        return self.tuner.peft_config[ADAPTER]

    def _parts(self, steps: int) -> tuple[int, int]:
        """Return the steps of the warm-up, and the steps at the end with the target budget."""
        return round(self.warmup_ratio * steps), round(self.final_ratio * steps)

    def _schedule(self, steps: int, start: int, final: int) -> None:
        self._config.total_step, self._config.tinit, self._config.tfinal = steps, start, final

    def _layers(self) -> dict[str, Any]:
        """Return the adapted modules by name."""
        return {
            name: module
            for name, module in self.tuner.model.named_modules()
            if hasattr(module, "lora_E")
        }
