"""LoRA-drop in a transformers.Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from loradrop.callbacks.base import LoRADropSchedule
from loradrop.plan import SharingPlan
from loradrop.sharing import plan_of

PLAN = "plan.json"
# Where trainer_state.json of a checkpoint keeps the plan. No class has this name: of a class that
# does, the Trainer would make a new callback (restore_callback_states_from_checkpoint), and batches
# cannot be stored.
STATE = "loradrop_plan"


class LoRADropTrainerCallback(LoRADropSchedule, TrainerCallback):
    """Measure, select and share while a Trainer trains; see LoRADropSchedule for the arguments.

        Trainer(..., callbacks=[LoRADropTrainerCallback(batches, epochs=3, threshold=0.9)])

    The model holds LoRA of add_lora or of PEFT. Batches go through the model as in training: on its
    device, and in bf16 or fp16 if the arguments say so.

    A checkpoint holds the plan in its trainer_state.json, so training that resumes from it shares
    in the same way, wherever the checkpoint lies now. Resuming from a checkpoint without a plan,
    after the time to share, warns and shares then. plan.json beside the weights is for
    from_pretrained. With load_best_model_at_end, the best model is one of those after sharing.

    Raises:
        ValueError: When training begins, for what LoRADropSchedule.begin refuses.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Share as a resumed checkpoint says, or check that sharing is possible."""
        stored = _stored(state).get(STATE)
        if stored is not None:
            self.resume(kwargs["model"], SharingPlan.from_dict(stored))
            return
        resumed = state.global_step > 0
        if resumed:
            self.resume_without_plan(state.global_step, state.epoch or 0)
        epochs = args.num_train_epochs if args.max_steps <= 0 else state.num_train_epochs
        self.begin(kwargs["model"], args.world_size, state.max_steps, epochs)
        self._store(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Share if the schedule counts steps and it is time."""
        if self.is_due(steps=state.global_step):
            self._now(args, state, kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Share if the schedule counts epochs and it is time."""
        # counted in steps, an epoch's end has rounding errors: 2.9999999 of 3
        if self.is_due(epochs=(state.epoch or 0) + 1e-6):
            self._now(args, state, kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Share if the schedule says so for the end of training."""
        if self.is_due(ended=True):
            self._now(args, state, kwargs)
        self.end()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Put the plan beside the weights."""
        folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        # a hyper-parameter search has folders of its own, whose plans trainer_state.json holds as
        # well
        if self.plan is not None and state.is_world_process_zero and folder.is_dir():
            # not self.plan: once a type has lost all its LoRA, others may have shorter names
            plan_of(kwargs["model"], self.adapter).save(folder / PLAN)

    def _now(self, args: TrainingArguments, state: TrainerState, given: dict[str, Any]) -> None:
        mixed = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
        optimizer = given.get("optimizer")
        self.carry_out(given["model"], [] if optimizer is None else [optimizer], mixed)
        self._store(state)
        if not self.at_end:
            # a checkpoint from before sharing fits the model no more: load_best_model_at_end must
            # not bring it back
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def _store(self, state: TrainerState) -> None:
        """Put the plan into every later checkpoint."""
        if self.plan is not None:
            _stored(state)[STATE] = self.plan.to_dict()


def _stored(state: TrainerState) -> dict[str, Any]:
    """The states of callbacks in a checkpoint, by their names."""
    stored: Any = state.stateful_callbacks
    return stored
