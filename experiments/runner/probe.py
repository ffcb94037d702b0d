"""Give methods access to the training set before the run: LoRA-drop's stage 1 and its cache."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.common import console
from experiments.common.files import atomic_write, remove_leftovers, run_lock
from experiments.config.identity import stage1_id
from experiments.runner import processes
from experiments.runner.components import RunComponents
from experiments.runner.trainer import (
    LIBRARIES,
    PREPARED,
    RESUMED,
    Checkpoint,
    make_module,
    make_trainer,
    state_identity,
    usable_checkpoint,
)
from loradrop.checksums import read_json, write_json
from loradrop.importance.importance import ByLayer, Importance
from loradrop.io.files import read_tensors, write_tensors
from loradrop.methods.base import Method, Stage1

IMPORTANCE, TRAINED = "importance.json", "trained.safetensors"
RANKING = "ranking.json"  # only of criteria that need the training set
STAGE1_VERSION = 1  # raise it when stage 1 or the measurement changes


class RunProbe:
    """Access to the training set before the run (see loradrop.methods.base.Probe).

    Args:
        components: The objects of the run.
        folder: The cache of stage 1.
        work: The run's folder, for checkpoints of a training outside stage 1. None: write none.
        logger: A Lightning logger, or None.
    """

    def __init__(
        self, components: RunComponents, folder: Path, work: Path | None = None, logger: Any = None
    ) -> None:
        self.components, self.folder = components, folder
        self.work, self.logger = work, logger
        self.seeds = components.seeds
        self.steps = components.steps
        self.cached: bool | None = None

    def sample(self, ratio: float) -> Sequence[int]:
        return self.components.data.sample(ratio)

    def fit(
        self,
        model: nn.Module,
        rows: Sequence[int],
        epochs: int,
        batch_size: int,
        steps: int | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> None:
        components = self.components
        data = components.data.of_rows(rows)
        data.batch_size = min(data.batch_size, batch_size)
        identity = state_identity(components, len(rows), epochs, steps)
        observer = None if on_step is None else _Observer(on_step)
        module = make_module(components, data, observer, identity)
        module.curve = "stage1"
        # what an observer has gathered is in no checkpoint
        work = self.work if on_step is None else None
        batches = len(data.train_loader())
        if steps is not None:
            epochs = math.ceil(steps / batches)
        interval = timedelta(minutes=components.config.trainer.checkpoint_minutes)
        options: dict[str, Any] = {
            "logger": self.logger or False,
            "callbacks": [Checkpoint(work, interval, PREPARED)] if work else [],
            "enable_checkpointing": work is not None,
            "limit_val_batches": 0,
            "max_steps": steps or -1,
        }
        trainer = make_trainer(components, "stage 1", epochs, batches, **options)
        if work is None:
            trainer.fit(module)
            return
        checkpoint, _ = usable_checkpoint(work / PREPARED, identity)
        if checkpoint is not None:
            components.data.splits.notes.append(RESUMED)
        trainer.fit(module, ckpt_path=checkpoint)
        # what follows may be interrupted as well
        trainer.save_checkpoint(work / PREPARED)

    def batches(
        self, rows: Sequence[int], gradients: bool = False, divided: bool = False
    ) -> Iterable[Mapping[str, Any]]:
        device = self.components.device
        self.components.model.to(device)  # Lightning leaves the model on the CPU
        data = self.components.data.of_rows(rows)
        if gradients:
            data.evaluation_batch_size = data.batch_size
        for batch in data.ordered_train_loader(divided):
            yield {key: value.to(device) for key, value in batch.items()}

    def autocast(self) -> AbstractContextManager:
        precision = self.components.config.trainer.precision
        dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
        return torch.autocast(
            self.components.device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None
        )

    def stage1(self, settings: Mapping[str, Any], compute: Callable[[], Stage1]) -> Stage1:
        """Compute stage 1 once for all runs of one backbone, task, recipe, seed and precision.

        The result is cached in <cache>/stage1/<id>.

        Args:
            settings: What the measurement depends on in the method.
            compute: Computes it if it is not cached, or the cached files are damaged.
        """
        measured: dict[str, Any] = {
            "data": self.components.data.fingerprint,
            "weights": self.components.weights,
            "libraries": LIBRARIES,
        }
        measured |= {"stage1": dict(settings), "stage1_version": STAGE1_VERSION}
        folder = self.folder / stage1_id(self.components.config, **measured)
        # concurrent runs wait for the first one
        with processes.in_first(lambda: run_lock(folder)):
            self.cached = processes.from_first(
                processes.rank() == 0 and _stored(folder) is not None
            )
            if not self.cached:
                self.work = folder
                result = compute()
                if processes.rank() == 0:
                    self._store(result, folder)
            processes.from_first(None)  # the files are there
        stored = _stored(folder)
        if stored is None:
            raise ValueError(f"{folder} cannot be read back: is its disk damaged?")
        return stored

    def _store(self, result: Stage1, folder: Path) -> None:
        with atomic_write(folder / TRAINED) as path:
            write_tensors(result.trained, path, {})
        if result.ranking is not None:
            with atomic_write(folder / RANKING) as path:
                write_json(path, result.ranking)
        with atomic_write(folder / IMPORTANCE) as path:  # last: marks it complete
            result.importance.save(path)
        (folder / PREPARED).unlink(missing_ok=True)
        remove_leftovers(folder)


class _Observer(Method):
    """Calls a function after each optimiser step of a plain training."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        super().__init__("observer")
        self.on_step = on_step

    def on_step_end(self, model: nn.Module, step: int) -> None:
        self.on_step()


def _stored(folder: Path) -> Stage1 | None:
    """The result of an earlier stage 1; None if there is none, or its files are damaged."""
    if not (folder / IMPORTANCE).exists():
        return None
    try:
        trained, _ = read_tensors(folder / TRAINED)
        return Stage1(Importance.load(folder / IMPORTANCE), trained, _ranking(folder / RANKING))
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        console.info(f"stage 1 is done again: {error}")
        return None


def _ranking(path: Path) -> ByLayer | None:
    """Read a stored ranking; JSON turns the layers' numbers into text."""
    if not path.exists():
        return None
    stored = read_json(path)
    return {kind: {int(layer): v for layer, v in layers.items()} for kind, layers in stored.items()}
