"""Give methods access to the training set before the run: LoRA-drop's stage 1 and its cache."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from experiments.common.files import atomic_write, run_lock
from experiments.config.identity import stage1_id
from experiments.runner import processes
from experiments.runner.components import RunComponents
from experiments.runner.record import save_tensors
from experiments.runner.trainer import make_module, make_trainer
from loradrop.importance.importance import ByLayer, Importance
from loradrop.methods.base import Method, Stage1

RANKING = "ranking.json"  # only of criteria that need the training set
STAGE1_VERSION = 1  # raise it when stage 1 or the measurement changes


class RunProbe:
    """Access to the training set before the run (see loradrop.methods.base.Probe).

    Args:
        components: The objects of the run.
        folder: The cache of stage 1.
    """

    def __init__(self, components: RunComponents, folder: Path) -> None:
        self.components, self.folder = components, folder
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
        module = make_module(components, data, None if on_step is None else _Observer(on_step))
        if steps is not None:
            epochs = math.ceil(steps / len(data.train_loader()))
        options: dict[str, Any] = {
            "logger": False,
            "enable_checkpointing": False,
            "limit_val_batches": 0,
            "max_steps": steps or -1,
        }
        trainer = make_trainer(components, "stage 1", epochs, **options)
        trainer.fit(module)

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
            compute: Computes it if it is not cached.

        Raises:
            ValueError: If the cached files are damaged.
        """
        measured: dict[str, Any] = {
            "data": self.components.data.fingerprint,
            "weights": self.components.weights,
        }
        measured |= {"stage1": dict(settings), "stage1_version": STAGE1_VERSION}
        folder = self.folder / stage1_id(self.components.config, **measured)
        # concurrent runs wait for the first one
        with processes.in_first(lambda: run_lock(folder)):
            self.cached = processes.from_first((folder / "importance.json").exists())
            if not self.cached:
                result = compute()
                if processes.rank() == 0:
                    self._store(result, folder)
            processes.from_first(None)  # the files are there
        try:
            return Stage1(
                Importance.load(folder / "importance.json"),
                load_file(folder / "trained.safetensors"),
                _ranking(folder / RANKING),
            )
        except (ValueError, KeyError, OSError, SafetensorError) as error:
            raise ValueError(f"{folder} is damaged ({error}); delete it and run again") from error

    def _store(self, result: Stage1, folder: Path) -> None:
        with atomic_write(folder / "trained.safetensors") as path:
            save_tensors(result.trained, path)
        if result.ranking is not None:
            with atomic_write(folder / RANKING) as path:
                path.write_text(json.dumps(result.ranking), encoding="utf-8")
        with atomic_write(folder / "importance.json") as path:  # last: marks it complete
            result.importance.save(path)


class _Observer(Method):
    """Calls a function after each optimiser step of a plain training."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        super().__init__("observer")
        self.on_step = on_step

    def on_step_end(self, model: nn.Module, step: int) -> None:
        self.on_step()


def _ranking(path: Path) -> ByLayer | None:
    """Read a stored ranking; JSON turns the layers' numbers into text."""
    if not path.exists():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    return {kind: {int(layer): v for layer, v in layers.items()} for kind, layers in stored.items()}
