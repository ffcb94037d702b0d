"""LoRA-drop in a transformers.Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from loradrop.callbacks.base import LoRADropSchedule
from loradrop.selection import SharingPlan

PLAN = "plan.json"


class LoRADropTrainerCallback(LoRADropSchedule, TrainerCallback):
    """Measures, selects and shares in a Trainer's course; see LoRADropSchedule for arguments and when.

    Trainer(..., callbacks=[LoRADropTrainerCallback(batches, epochs=3, threshold=0.9)])

    The model holds LoRA of add_lora or of PEFT. Batches go through the model as training's do: on its device, in bf16 or
    fp16 if the arguments say so. Checkpoints hold the plan, and resuming from one (in the same output_dir) shares again.
    The best model (load_best_model_at_end) is one of those after sharing.
    """

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        plan = _folder(args, state) / PLAN
        if state.global_step and not self.at_end and plan.exists():
            self.resume(kwargs["model"], SharingPlan.load(plan))
        else:
            epochs = args.num_train_epochs if args.max_steps <= 0 else state.num_train_epochs
            self.begin(kwargs["model"], args.world_size, state.max_steps, epochs)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.is_due(steps=state.global_step):
            self._now(args, state, kwargs)

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # counted in steps, an epoch's end has rounding errors: 2.9999999 of 3
        if self.is_due(epochs=(state.epoch or 0) + 1e-6):
            self._now(args, state, kwargs)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.is_due(ended=True):
            self._now(args, state, kwargs)
        self.end()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.plan is not None and state.is_world_process_zero:
            self.plan.save(_folder(args, state) / PLAN)

    def _now(self, args: TrainingArguments, state: TrainerState, given: dict[str, Any]) -> None:
        mixed = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        optimizer = given.get("optimizer")
        self.carry_out(given["model"], [] if optimizer is None else [optimizer], mixed)
        if not self.at_end:
            # a checkpoint from before sharing fits the model no more: load_best_model_at_end must not bring it back
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None


def _folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Of the checkpoint of this step."""
    return Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
