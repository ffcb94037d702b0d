"""A turn of ours: the training of `python -m experiments.run method=lora`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import LambdaCallback
from torch.utils.data import DataLoader

from experiments.benchmark.stand_ins import MAX_LENGTH, hub_id
from experiments.benchmark.training_turn import ALPHA, RANK, RATE, Case, TrainingClock
from experiments.config.sweep import expand_sweep
from experiments.config.validation import check
from experiments.runner.components import RunComponents
from experiments.runner.trainer import Checkpoint, make_module, make_trainer, quieten
from loradrop.training.batches import LengthGroupedSampler


def prepare(folder: Path, case: Case) -> Callable[[], Mapping[str, float]]:
    """Make a turn.

    Args:
        folder: Where the stand-ins are.
        case: What to train on.
    """
    quieten()
    [config] = expand_sweep(overrides(folder, case))

    def turn() -> dict[str, float]:
        components = RunComponents(check(config))
        data = components.data
        sampler = LengthGroupedSampler(data.lengths, case.batch_size, data.seeds)
        order = [row for batch in sampler for row in batch]
        batches: Any = case.chosen(order, data.lengths)
        clock = TrainingClock(components.model)
        timer = LambdaCallback(on_train_start=clock.start, on_train_end=clock.stop)
        module = make_module(components, data, components.method)
        collate: Any = data.collate
        loader = DataLoader(data.train, None, sampler=batches, collate_fn=collate)
        options: dict[str, Any] = {"logger": False, "limit_val_batches": 0}
        with tempfile.TemporaryDirectory() as run:
            callbacks = [timer, Checkpoint(Path(run), timedelta(minutes=5))]
            trainer = make_trainer(components, "training", 1, case.steps, callbacks, **options)
            trainer.fit(module, loader)
        return clock.measured()

    return turn


def overrides(folder: Path, case: Case) -> list[str]:
    """Return the overrides of a run on a stand-in model and stand-in rows."""
    shape = case.shape
    return [
        *("backbone=all_minilm_l6", "task=sst2", "method=lora", "trainer=cpu"),
        *(f"backbone.name={shape}", f"backbone.hub_id={hub_id(shape)}", "backbone.revision=null"),
        *(f"recipe.batch_size={case.batch_size}", f"recipe.max_length={MAX_LENGTH}"),
        *(f"recipe.learning_rate={RATE}", f"recipe.lora_alpha={ALPHA}", f"method.rank={RANK}"),
        *("recipe.epochs=1", "trainer.num_threads=1", "trainer.progress_bar=false"),
        *(f"paths.models={folder / 'models'}", f"paths.data={folder / case.task}"),
        f"paths.outputs={folder / 'outputs' / case.task}",
    ]
