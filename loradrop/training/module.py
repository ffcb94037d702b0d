"""The Lightning modules of a run: the common part, and sequence classification and regression.

AdamW with a linear schedule and warm-up, no weight decay on biases and layer norms (as in
run_glue.py of Hu et al. 2021). The random numbers of a step (dropout) depend only on (seed, step),
so a resumed run equals an uninterrupted one. Generation is in generation.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from loradrop.heads import head_parameters
from loradrop.methods.base import Method
from loradrop.tasks.base import LabelTask, Values
from loradrop.training.batches import WEIGHT
from loradrop.training.data import TaskData
from loradrop.training.recipe import Recipe


class RunModule(pl.LightningModule):
    """Train what the method left trainable, score each epoch, remember the best epoch's parameters.

    A subclass collects a split's outputs in validation_step and turns them into predictions in
    `collected`.

    Args:
        model: The model with its adapters.
        data: The task's data.
        recipe: How to train.
        method: The method, None for none.
        identity: Stands for data and weights. A checkpoint with another identity is refused.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        data: TaskData,
        recipe: Recipe,
        method: Method | None,
        identity: str = "",
    ) -> None:
        super().__init__()
        self.identity = identity
        self.model, self.data, self.recipe, self.method = model, data, recipe, method
        self.curve = "train"  # the name of the loss curve in a logger
        self.epochs: list[dict[str, float]] = []  # the scores of each epoch
        self.best: dict[str, Any] = {}  # the best epoch's score and what `remembered` returned
        self.loss_sum, self.loss_steps = torch.zeros(()), 0
        # by split: what validation_step keeps of each batch
        self.outputs: dict[str, list[tuple[Any, Any]]] = {}
        self.skip = 0  # batches of the current epoch done before an interruption
        self.train_seconds, self.resumed_at = 0.0, time.perf_counter()  # without validation
        self.strict_loading = False  # checkpoints hold trainable parameters only

    def train_dataloader(self) -> Any:
        skip, self.skip = self.skip, 0
        return self.data.train_loader(skip)

    def val_dataloader(self) -> Any:
        return self.data.evaluation_loaders()

    def on_train_start(self) -> None:
        self.resumed_at = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        # here, as not every epoch is scored
        self.loss_sum, self.loss_steps = torch.zeros(()), 0

    def on_validation_epoch_start(self) -> None:
        self.train_seconds += time.perf_counter() - self.resumed_at

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(self.data.seeds.step(self.global_step, self.data.rank))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        weight = batch.pop(WEIGHT, None)
        loss = self.model(**batch).loss
        if weight is not None:
            loss = loss * weight
        self.loss_sum = self.loss_sum.to(loss.device) + loss.detach()
        self.loss_steps += 1
        self.log(f"{self.curve}/loss", loss)
        self.log("loss", loss, prog_bar=True, logger=False)
        penalty = None if self.method is None else self.method.penalty(self.model)
        return loss if penalty is None else loss + penalty

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.method is not None:
            if self.data.world_size > 1:  # dropout was the process's own, a method's draws are not
                torch.manual_seed(self.data.seeds.step(self.global_step))
            # Lightning counts the step only afterwards
            self.method.on_step_end(self.model, self.global_step + 1)

    def collected(self) -> Mapping[str, tuple[Values, Values]]:
        """Return {split: (predictions, references)} for the epoch's outputs."""
        raise NotImplementedError

    def split_name(self, dataloader_idx: int) -> str:
        return list(self.data.evaluation)[dataloader_idx]

    def on_validation_epoch_end(self) -> None:
        task = self.data.task
        loss = float(self._over_processes(self.loss_sum)) / max(1, self.loss_steps)
        self._gather()
        if not math.isfinite(loss):
            raise self.diverged()
        scores = task.score(self.collected())
        self.outputs = {}
        self.log_dict({f"validation/{key}": value for key, value in scores.items()})
        self.log(task.primary, scores[task.primary], prog_bar=True, logger=False)
        self.epochs.append({"epoch": self.current_epoch + 1, "train_loss": loss, **scores})
        settled = self.method is None or self.method.is_final(self.global_step)
        if settled and (not self.best or scores[task.primary] > self.best["score"]):
            self.best = {"score": scores[task.primary], **self.remembered()}
        self.resumed_at = time.perf_counter()

    def _over_processes(self, value: Tensor) -> Tensor:
        """The mean of a number over all processes."""
        if self.data.world_size > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value / self.data.world_size

    def _gather(self) -> None:
        """Give every process the outputs of all, as if it were alone."""
        if self.data.world_size == 1:
            return
        own = {
            split: [tuple(_on_cpu(value) for value in batch) for batch in batches]
            for split, batches in self.outputs.items()
        }
        parts: list[Any] = [None] * self.data.world_size
        torch.distributed.all_gather_object(parts, own)
        self.outputs = {
            split: self.data.in_order(split, [part[split] for part in parts]) for split in own
        }

    def remembered(self) -> dict[str, Any]:
        """Return what is kept of the best epoch."""
        return {"epoch": self.current_epoch + 1, "state": self.trainable_state()}

    def notes(self) -> list[str]:
        """Return what a run reports about its best epoch."""
        return []

    def diverged(self) -> FloatingPointError:
        return FloatingPointError(
            f"training diverged in epoch {self.current_epoch + 1}; try a lower learning rate"
        )

    def trainable_state(self) -> dict[str, Tensor]:
        """Copy trainable parameters to the CPU, by their name in the model; a shared one once."""
        return {
            n: p.detach().cpu().clone() for n, p in self.model.named_parameters() if p.requires_grad
        }

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        head = {id(parameter) for _, parameter in head_parameters(self.model)}
        groups: dict[tuple, dict[str, Any]] = {}
        for parameter in self.model.parameters():
            if not parameter.requires_grad:
                continue
            own_rate = None if id(parameter) in head else recipe.adapter_learning_rate
            rate = recipe.learning_rate if own_rate is None else own_rate
            decays = parameter.dim() > 1
            settings = {"lr": rate, "weight_decay": recipe.weight_decay if decays else 0.0}
            groups.setdefault(tuple(sorted(settings.items())), {"params": [], **settings})[
                "params"
            ].append(parameter)
        optimizer = torch.optim.AdamW(list(groups.values()))
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = get_linear_schedule_with_warmup(
            optimizer, math.ceil(recipe.warmup_ratio * steps), steps
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trainable = {n for n, p in self.named_parameters(remove_duplicate=False) if p.requires_grad}
        checkpoint["state_dict"] = {
            n: v for n, v in checkpoint["state_dict"].items() if n in trainable
        }
        checkpoint["run"] = {
            "identity": self.identity,
            "method": {} if self.method is None else self.method.state_dict(),
            "epochs": self.epochs,
            "best": self.best,
            "loss": (float(self._over_processes(self.loss_sum)), self.loss_steps),
            "step": self.global_step,
            "train_seconds": self.train_seconds + time.perf_counter() - self.resumed_at,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        run = checkpoint["run"]
        self.epochs = run["epochs"]
        self.best = run["best"]
        self.train_seconds = run["train_seconds"]
        self.loss_sum, self.loss_steps = torch.tensor(run["loss"][0]), run["loss"][1]
        self.skip = run["step"] % len(self.data.train_loader())


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, Tensor) else value


class SequenceModule(RunModule):
    """Sequence classification and regression."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # (rows, num_labels) of the epoch scored last, by split, in the order of its rows
        self.logits: dict[str, Tensor] = {}

    def validation_step(
        self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        labels = batch.pop("labels")
        split = self.split_name(dataloader_idx)
        self.outputs.setdefault(split, []).append((self.model(**batch).logits.float(), labels))

    def collected(self) -> Mapping[str, tuple[Values, Values]]:
        task = cast(LabelTask, self.data.task)
        decoded: dict[str, tuple[Values, Values]] = {}
        for split, parts in self.outputs.items():
            # from the order of the batches to that of the rows
            rows = torch.tensor(self.data.evaluation_order(split)).argsort()
            logits, labels = (
                torch.cat(tensors).cpu()[rows] for tensors in zip(*parts, strict=True)
            )
            if not logits.isfinite().all():
                # argmax of NaNs is class 0, which would pass for a prediction
                raise self.diverged()
            decoded[split] = task.decode(logits.numpy()), labels.numpy()
            self.logits[split] = logits
        return decoded

    def remembered(self) -> dict[str, Any]:
        return super().remembered() | {"logits": dict(self.logits)}
