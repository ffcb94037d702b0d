"""LoRA-drop in a Lightning Trainer."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from loradrop.callbacks.base import LoRADropSchedule
from loradrop.extras import extra
from loradrop.plan import SharingPlan

with extra("lightning"):
    import pytorch_lightning as pl
    from pytorch_lightning.strategies import DDPStrategy

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class LoRADropLightningCallback(LoRADropSchedule, pl.Callback):
    """Measure, select and share while a Lightning Trainer trains.

        Trainer(callbacks=[LoRADropLightningCallback(batches, attribute="model", epochs=3,
        threshold=0.9)]).fit(module)

    The optimisers must see trainable parameters that are there from the start. A checkpoint holds
    the plan, and a resumed fit shares in the same way; not with share=False, whose checkpoint lacks
    weights that the module would have. Resuming from a checkpoint without a plan, after the time to
    share, warns and shares then.

    Args:
        batches: What to measure on; see loradrop.measure.
        attribute: Name of the LightningModule's attribute that holds the model which takes the
            batches. None: the module itself takes them.
        **settings: See LoRADropSchedule.

    Raises:
        TypeError: As for LoRADropSchedule.
        ValueError: As for LoRADropSchedule; when training begins, for what LoRADropSchedule.begin
            refuses.
    """

    def __init__(
        self, batches: Iterable[Any], attribute: str | None = None, **settings: Any
    ) -> None:
        super().__init__(batches, **settings)
        self.attribute = attribute
        self._restored = False  # whether the plan is that of the checkpoint that is resumed from

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note whether the checkpoint that training resumes from holds a plan."""
        if "plan" not in checkpoint.get("callbacks", {}).get(self.state_key, {}):
            self.resume_without_plan(checkpoint["global_step"], checkpoint["epoch"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Share as a resumed checkpoint says, or check that sharing is possible."""
        if self._restored and self.plan is not None:
            self.resume(self._model(pl_module), self.plan)
            self._restored = False
        else:
            trying = trainer.fast_dev_run  # a few steps of what will be longer
            epochs = math.inf if trying or trainer.max_epochs in (None, -1) else trainer.max_epochs
            # in manual optimisation a batch may have several steps
            known = pl_module.automatic_optimization and not trying
            steps = trainer.estimated_stepping_batches if known else math.inf
            processes = 1 if isinstance(trainer.strategy, DDPStrategy) else trainer.world_size
            self.begin(self._model(pl_module), processes, steps, epochs)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Share if the schedule counts steps and it is time."""
        if self.is_due(steps=trainer.global_step):
            self._now(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Share if the schedule counts epochs and it is time."""
        if self.is_due(epochs=trainer.current_epoch + 1):
            self._now(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Share if the schedule says so for the end of training."""
        if self.is_due(ended=True):
            self._now(trainer, pl_module)
        self.end()

    def state_dict(self) -> dict[str, Any]:
        """The plan, for checkpoints."""
        return {} if self.plan is None else {"plan": self.plan.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the plan out of a checkpoint."""
        if "plan" in state_dict:
            self.plan, self._restored = SharingPlan.from_dict(state_dict["plan"]), True

    def _now(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        strategy: Any = trainer.strategy
        is_wrapped = isinstance(strategy.model, DistributedDataParallel)
        if is_wrapped and not self.at_end:
            strategy.model = module  # the wrapper knows the parameters that will be gone
        self.carry_out(self._model(module), trainer.optimizers, MIXED.get(str(trainer.precision)))
        if is_wrapped and not self.at_end:
            strategy.configure_ddp()

    def _model(self, module: pl.LightningModule) -> nn.Module:
        return module if self.attribute is None else module.get_submodule(self.attribute)
