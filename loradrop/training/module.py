"""The Lightning modules of a run: what all of them share, and sequence classification and regression.

AdamW, linear schedule with warm-up, no weight decay on biases and layer norms (as run_glue.py of Hu et al. 2021). The
random numbers of a step (dropout) are a function of (seed, step), so that a resumed run is the uninterrupted one.
Generation is in generation.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from loradrop.backbones import head_parameters
from loradrop.methods.base import Method
from loradrop.tasks.base import LabelTask, Values
from loradrop.training.data import TaskData
from loradrop.training.recipe import Recipe


class RunModule(pl.LightningModule):
    """Trains what a method left trainable, scores every epoch, remembers the best epoch's parameters.

    A subclass collects a split's outputs in validation_step and makes scores of them in `collected`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        data: TaskData,
        recipe: Recipe,
        method: Method | None,
        identity: str = "",  # of data and weights: a checkpoint of others is refused
    ) -> None:
        super().__init__()
        self.identity = identity
        self.model, self.data, self.recipe, self.method = model, data, recipe, method
        self.epochs: list[dict[str, float]] = []  # scores of each epoch, from 1
        self.best: dict[
            str, Any
        ] = {}  # what is remembered of the best epoch: its number and its trainable parameters
        self.loss_sum, self.loss_steps = torch.zeros(()), 0
        self.outputs: dict[
            str, list[tuple[Any, Any]]
        ] = {}  # split -> what validation_step keeps of each batch
        self.skip = 0  # batches of the current epoch that were done before an interruption
        self.train_seconds, self.resumed_at = 0.0, time.perf_counter()  # validation left out
        self.strict_loading = False  # checkpoints hold trainable parameters only

    def train_dataloader(self) -> Any:
        skip, self.skip = self.skip, 0
        return self.data.train_loader(skip)

    def val_dataloader(self) -> Any:
        return self.data.evaluation_loaders()

    def on_train_start(self) -> None:
        self.resumed_at = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        # here and not where an epoch is scored, which not every epoch is
        self.loss_sum, self.loss_steps = torch.zeros(()), 0

    def on_validation_epoch_start(self) -> None:
        self.train_seconds += time.perf_counter() - self.resumed_at

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(self.data.seeds.step(self.global_step))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.model(**batch).loss
        self.loss_sum = self.loss_sum.to(loss.device) + loss.detach()
        self.loss_steps += 1
        self.log("train/loss", loss)
        self.log("loss", loss, prog_bar=True, logger=False)
        penalty = None if self.method is None else self.method.penalty(self.model)
        return loss if penalty is None else loss + penalty

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.method is not None:
            self.method.on_step_end(
                self.model, self.global_step + 1
            )  # Lightning counts it only afterwards

    def collected(self) -> Mapping[str, tuple[Values, Values]]:
        """{split: (predictions, references)} of the epoch's outputs."""
        raise NotImplementedError

    def split_name(self, dataloader_idx: int) -> str:
        return list(self.data.evaluation)[dataloader_idx]

    def on_validation_epoch_end(self) -> None:
        task = self.data.task
        loss = float(self.loss_sum) / max(1, self.loss_steps)
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

    def remembered(self) -> dict[str, Any]:
        """What is kept of the best epoch."""
        return {"epoch": self.current_epoch + 1, "state": self.trainable_state()}

    def notes(self) -> list[str]:
        """What a run has to report of its best epoch."""
        return []

    def diverged(self) -> FloatingPointError:
        return FloatingPointError(
            f"training diverged in epoch {self.current_epoch + 1}; try a lower learning rate"
        )

    def trainable_state(self) -> dict[str, Tensor]:
        """Trainable parameters on the CPU by their name in the model, each shared one once."""
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
            "loss": (float(self.loss_sum), self.loss_steps),
            "step": self.global_step,
            "train_seconds": self.train_seconds + time.perf_counter() - self.resumed_at,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        run = checkpoint["run"]
        self.epochs, self.best, self.train_seconds = (
            run["epochs"],
            run["best"],
            run["train_seconds"],
        )
        self.loss_sum, self.loss_steps = torch.tensor(run["loss"][0]), run["loss"][1]
        self.skip = run["step"] % len(self.data.train_loader())


class SequenceModule(RunModule):
    """Sequence classification and regression."""

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
            logits, labels = (
                torch.cat(tensors).cpu().numpy() for tensors in zip(*parts, strict=True)
            )
            if not np.isfinite(logits).all():
                # the class of the largest NaN is the first one: that would pass for a score
                raise self.diverged()
            decoded[split] = task.decode(logits), labels
        return decoded
